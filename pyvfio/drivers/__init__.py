"""Drivers on top of VFIO, for examples and tests."""
