"""Unix sockets, and the loop that waits for whatever is served."""

from virtiomem.serving.calls import Calls
from virtiomem.serving.event_loop import EventLoop, Source
from virtiomem.serving.periodic import Periodic
from virtiomem.serving.unix_socket import Listener, is_served
from virtiomem.serving.worker import Worker

__all__ = [
    "Calls",
    "EventLoop",
    "Listener",
    "Periodic",
    "Source",
    "Worker",
    "is_served",
]
