"""What crosses a vhost-user socket and lies in shared memory, as ctypes. Headers' and specification's own names."""
