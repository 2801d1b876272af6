"""What crosses a vhost-user socket or lies in shared memory, as ctypes, by the names of headers and specification."""
