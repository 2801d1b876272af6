"""Why a kernel is tainted. Source: Documentation/admin-guide/tainted-kernels.rst."""

from __future__ import annotations

TAINTED = "/proc/sys/kernel/tainted"
"""The file that tells the bits, as a decimal number."""
TAINT_USER = 1 << 6
"""Root has asked for what may break the kernel; VFIO sets it when it takes a device without an IOMMU."""
