"""Which disks and controllers the kernel itself lends to others without claiming them: NVMe targets, loop devices."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.kernel import Kernel, names_in, text_or_empty
from pyvfio.texts import printable

_TARGETS = "/sys/kernel/config/nvmet/subsystems"
_BLOCK = "/sys/class/block"


class Exports:
    """What the kernel lent when this object was made."""

    def __init__(self, kernel: Kernel) -> None:
        """Read the configuration of the NVMe target, and what loop devices are on.

        Source: drivers/nvme/target/configfs.c; drivers/block/loop.c, backing_file.
        """
        self._kernel = kernel
        self._targets = list(_targets(kernel))
        loops = ((name, f"{_BLOCK}/{name}/loop/backing_file") for name in names_in(kernel, _BLOCK))
        self._loops = [(name, path) for name, file in loops if (path := text_or_empty(kernel, file))]

    def targets_of(self, node: str) -> list[str]:
        """The names of the NVMe subsystems that offer a disk or a controller to other hosts. node: its node."""
        return [name for name, path in self._targets if self._is(path, node)]

    def loops_of(self, node: str) -> list[str]:
        """The loop devices that are on a disk or partition. node: its node."""
        return [name for name, path in self._loops if self._is(path, node)]

    def _is(self, path: str, node: str) -> bool:
        """Whether path, which may be another name, is the device of node."""
        number = self._number(path)
        return path == node or (number is not None and number == self._number(node))

    def _number(self, path: str) -> str | None:
        try:
            return self._kernel.device_number(path) or None
        except OSError:  # it is in another mount namespace
            return None


def _targets(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """The name of each subsystem of the NVMe target, and the path of a disk or controller that it offers."""
    for name in names_in(kernel, _TARGETS):
        subsystem = f"{_TARGETS}/{name}"
        offers = [f"{subsystem}/passthru"]
        offers += [f"{subsystem}/namespaces/{number}" for number in names_in(kernel, f"{subsystem}/namespaces")]
        for offer in offers:
            # As long as it is off, nothing is opened.
            if text_or_empty(kernel, f"{offer}/enable") == "1":
                yield printable(name), text_or_empty(kernel, f"{offer}/device_path")
