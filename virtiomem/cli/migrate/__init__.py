"""virtiomem migrate: what it does is in actions.py, a function for each word."""
