"""LiveConfig: the config space of a device that runs."""

from __future__ import annotations

import threading
from dataclasses import replace

from virtiomem.device.config import Config, check_requested_size, usable_region_size


class LiveConfig:
    """A Config that changes. It is replaced whole at every change, so that reading value needs no lock.

    The host resizes while a request of the guest is carried out, however long that takes: whoever changes the config
    takes lock, for a moment and after every other lock of the device.
    """

    def __init__(self, config: Config, usable_extent: int) -> None:
        """config: what it is at first, but for its usable size. usable_extent: as VirtioMem has it."""
        self.lock = threading.RLock()
        self._usable_extent = usable_extent
        self.value = replace(config, usable_region_size=self._usable_for(config, config.requested_size))

    def resize(self, requested_size: int) -> Config:
        """Ask for requested_size bytes; return what the config is then. The usable region grows if it must.

        Raises InvalidArgument, with nothing changed, for a size that the region cannot have.
        """
        with self.lock:
            config = self.value
            check_requested_size(requested_size, config.region_size, config.block_size)
            usable_size = max(config.usable_region_size, self._usable_for(config, requested_size))
            self.value = replace(config, requested_size=requested_size, usable_region_size=usable_size)
            return self.value

    def plugged(self, size: int) -> None:
        """size bytes are plugged now."""
        with self.lock:
            self.value = replace(self.value, plugged_size=size)

    def shrink(self) -> None:
        """Everything was unplugged at once: the usable region is what the requested size needs."""
        with self.lock:
            usable_size = self._usable_for(self.value, self.value.requested_size)
            self.value = replace(self.value, usable_region_size=usable_size)

    def load(self, config: Config) -> None:
        """Be config from now on."""
        with self.lock:
            self.value = config

    def _usable_for(self, config: Config, requested_size: int) -> int:
        return usable_region_size(config.region_size, requested_size, config.block_size, self._usable_extent)
