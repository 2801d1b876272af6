"""What a guest says of its memory, beside what the device has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vmlib.guest import Guest

from virtiomem import Run, VirtioMem
from virtiomem.runs import union

MEMORY_BLOCK = 128 << 20
"""What Linux on x86 adds and onlines at a time; a block of it that is plugged in part is there whole in /proc/iomem."""


@dataclass(frozen=True, slots=True)
class View:
    """total: MemTotal in bytes, beyond what the guest booted with. memory: the region's System RAM, in guest-physical
    bytes. plugged, requested: what the driver last said of the config it read, in bytes."""

    total: int
    memory: tuple[Run, ...]
    plugged: int
    requested: int

    @classmethod
    def of(cls, guest: Guest, base: int) -> View:
        """base: MemTotal in bytes as it booted."""
        sizes = re.findall(r"(plugged|requested) size: 0x([0-9a-f]+)", guest.run("dmesg | grep virtio_mem"))
        last = {name: int(value, 16) for name, value in sizes}
        return cls(total(guest) - base, memory(guest), last["plugged"], last["requested"])

    def __str__(self) -> str:
        ranges = ", ".join(f"{run.start:x}-{run.end - 1:x}" for run in self.memory) or "none"
        return f"MemTotal +{self.total >> 10} kB, System RAM {ranges}, asked for {self.requested >> 20} MiB"


def expected(device: VirtioMem, plugged_before: int) -> View:
    """What a guest must say of a device that has what was asked of it, and had plugged_before when it was."""
    config = device.config
    blocks = [
        Run(start := run.start // MEMORY_BLOCK * MEMORY_BLOCK, -(-run.end // MEMORY_BLOCK) * MEMORY_BLOCK - start)
        for run in device.plugged_runs
    ]
    return View(config.plugged_size, tuple(union(blocks)), plugged_before, config.requested_size)


def total(guest: Guest) -> int:
    """MemTotal in bytes."""
    return int(guest.run("grep MemTotal: /proc/meminfo").split()[1]) << 10


def memory(guest: Guest) -> tuple[Run, ...]:
    found = re.findall(r"([0-9a-f]+)-([0-9a-f]+) : System RAM \(virtio_mem\)", guest.run("cat /proc/iomem"))
    return tuple(union(_runs(found)))


def _runs(found: Sequence[tuple[str, str]]) -> list[Run]:
    return [Run(int(start, 16), int(end, 16) + 1 - int(start, 16)) for start, end in found]
