"""Every system call a step can make, by kind of descriptor."""
