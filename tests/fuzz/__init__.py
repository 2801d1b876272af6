"""Parsers of what comes from outside, as data, and the program that feeds them: `python -m tests.fuzz`."""
