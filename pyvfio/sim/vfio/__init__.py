"""drivers/vfio: containers, groups and devices of the kernel."""
