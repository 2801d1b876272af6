"""Answering: whether a device answers accesses to its memory, and the windows onto it, there while it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from pyvfio.kernel import Window


class Answering:
    """Whether the BARs of a device may be touched through a mapping, as far as this process set the device's state.

    A mapped access to a BAR that does not answer ends the process (SIGBUS). So all windows are released before what may
    stop the device from answering is done, and no new one is made until the device is known to answer. Safe from
    several threads.
    lock: held while a window is made, used for the first time or released; nobody waits for anything else with it held.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self._is_decoding = True
        self._is_powered = True
        self._is_asleep = False
        self._windows: list[Window] = []

    def __bool__(self) -> bool:
        return self._is_decoding and not self._is_asleep

    @property
    def is_decoding(self) -> bool:
        """Whether memory decoding is on and the device in D0."""
        return self._is_decoding

    @is_decoding.setter
    def is_decoding(self, value: bool) -> None:
        with self.lock:
            self._is_decoding = value
            self._release_if_silent()

    @property
    def is_powered(self) -> bool:
        """Whether the device is in D0, as far as it was told: the reason why it does not decode, if it is not."""
        return self._is_powered

    @is_powered.setter
    def is_powered(self, value: bool) -> None:
        self._is_powered = value

    @property
    def is_asleep(self) -> bool:
        """Whether this process let the host suspend the device."""
        return self._is_asleep

    @is_asleep.setter
    def is_asleep(self, value: bool) -> None:
        with self.lock:
            self._is_asleep = value
            self._release_if_silent()

    @property
    def silence(self) -> tuple[str, str]:
        """Why the BARs do not answer, as far as this process put the device in that state; and what makes them answer.

        For a device that is taken to answer: what may be the matter all the same.
        """
        if self._is_asleep:
            return "the device does not answer: it may sleep", "features.exit_low_power()"
        if not self._is_powered:
            return "the device does not answer: it is not in D0", "config.find(PowerManagement).state = 0"
        if not self._is_decoding:
            return "the device does not answer: memory decoding is off", "config.command |= PciCommand.MEMORY"
        return "the device does not answer", "Another program may have switched memory decoding off, or its power"

    def window(self, make: Callable[[], Window]) -> Window | None:
        """A window that make() makes; None if the device does not answer. Raises what make() raises."""
        with self.lock:
            if not self:
                return None
            window = make()
            self._windows.append(window)
            return window

    def release(self, window: Window) -> None:
        """Release a window that is not needed any more."""
        with self.lock:
            window.release()
            if window in self._windows:
                self._windows.remove(window)

    def _release_if_silent(self) -> None:
        if not self:
            for window in self._windows:
                window.release()
            self._windows = []
