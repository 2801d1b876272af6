"""Commands that add to a running server, and take from it."""
