"""Cases of the kernel interface, as data: run on the simulated kernel in every version, and on real ones.

A case is raw system calls through the seam (pyvfio.kernel), what the one under test must answer and what it must have
changed. `python -m tests.conformance` runs all of them on the kernel it runs on, beside the simulated one.
"""
