"""What tools/house checks: table.py says how the house is built."""
