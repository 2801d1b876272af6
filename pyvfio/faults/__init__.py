"""Failures on demand, on the simulated kernel and on the real one: any call, the N-th or every one that matches."""

from pyvfio.faults.kernel import FaultyKernel
from pyvfio.faults.rules import Before, Call, Fault, Hold, Interrupt, Rule, ShortUnmap, Vanish

__all__ = [
    "Before",
    "Call",
    "Fault",
    "FaultyKernel",
    "Hold",
    "Interrupt",
    "Rule",
    "ShortUnmap",
    "Vanish",
]
