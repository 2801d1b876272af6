"""The loop that waits for whatever is served, and what is said of it."""

from virtiomem.serving.calls import Calls
from virtiomem.serving.event_loop import EventLoop, Source
from virtiomem.serving.lines import Lines
from virtiomem.serving.periodic import Periodic
from virtiomem.serving.worker import Worker

__all__ = [
    "Calls",
    "EventLoop",
    "Lines",
    "Periodic",
    "Source",
    "Worker",
]
