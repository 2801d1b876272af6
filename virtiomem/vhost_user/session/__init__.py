"""A front end from its connection to its end, in this process and in those that follow it."""
