"""The kernel's uapi headers as ctypes: one module per header, the kernel's own names, no behaviour."""
