"""Failures on demand, on the simulated kernel and on the real one: any call, the N-th or every one that matches."""

from pyvfio.faults.kernel import FaultyKernel
from pyvfio.faults.rules import Before, Call, FalseUnmap, Fault, Hold, Interrupt, Rule, ShortUnmap, Vanish

__all__ = [
    "Before",
    "Call",
    "FalseUnmap",
    "Fault",
    "FaultyKernel",
    "Hold",
    "Interrupt",
    "Rule",
    "ShortUnmap",
    "Vanish",
]
