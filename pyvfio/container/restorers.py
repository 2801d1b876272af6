"""Restorers: who maps again what went with the last group."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from types import MethodType

from pyvfio.errors import InvalidArgument


class Restorers:
    """Bound methods that are called whenever a group has been attached. Each goes with its object."""

    def __init__(self) -> None:
        self._methods: list[weakref.WeakMethod[Callable[[], object]]] = []

    def add(self, restore: Callable[[], object]) -> None:
        """Have restore, a bound method, called from now on. Its object is not kept alive.

        Raises InvalidArgument for anything but a bound method.
        """
        if not isinstance(restore, MethodType):
            meaning = f"{restore!r} is no bound method, which goes with its object"
            raise InvalidArgument(errno.EINVAL, "on_attach", meaning=meaning)
        self._methods.append(weakref.WeakMethod(restore))

    def call(self) -> None:
        """Call them, the oldest first. Raises what one of them raises; those after it are not called then."""
        for reference in self._methods.copy():
            restore = reference()
            if restore is None:
                self._methods.remove(reference)
            else:
                restore()
