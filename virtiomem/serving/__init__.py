"""The loop that waits for whatever is served."""

from virtiomem.serving.calls import Calls
from virtiomem.serving.event_loop import EventLoop, Source
from virtiomem.serving.periodic import Periodic
from virtiomem.serving.worker import Worker

__all__ = [
    "Calls",
    "EventLoop",
    "Periodic",
    "Source",
    "Worker",
]
