"""PCI functions and the models of devices behind them."""
