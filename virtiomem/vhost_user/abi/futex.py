"""The part of linux/futex.h that this package uses."""

FUTEX_WAKE_OP = 5
FUTEX_PRIVATE_FLAG = 128
FUTEX_OP_ADD = 1
FUTEX_OP_OPARG_SHIFT = 8
