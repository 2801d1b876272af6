"""The test machine: a Debian kernel in QEMU under software emulation, with an emulated IOMMU and edu devices.

A harness of its own rather than virtme-ng: a boot takes half as long, the command's exit status and its two output
streams come back unmixed, and neither udev nor kmod nor root is needed on the host.
"""
