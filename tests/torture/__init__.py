"""The long form of what is promised: `python -m tests.torture`, or `make torture`."""
