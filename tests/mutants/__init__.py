"""Faults that are put in on purpose, and the program that looks whether a test says so: `python -m tests.mutants`."""
