"""An argument of the wrong kind is told of in a sentence, before anything has happened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from pyvfio import CdevDevice, Container, Group, InvalidArgument, Ioas, Memory, MemoryKind
from pyvfio.sim import SimKernel

EDU, OTHER = "0000:00:03.0", "0000:00:04.0"
IOVA, SIZE = 0x1_0000_0000, 0x1_0000
DATA: Any = bytearray(SIZE)


@dataclass
class World:
    kernel: SimKernel
    memory: Memory
    container: Container
    ioas: Ioas
    device: CdevDevice


@pytest.fixture
def world() -> Iterator[World]:
    kernel = SimKernel(edu_devices=2, version=(7, 3))
    with (
        Memory.allocate(MemoryKind.MEMFD, SIZE, kernel=kernel) as memory,
        Container(kernel=kernel) as container,
        Ioas(kernel=kernel) as ioas,
    ):
        container.open_device(EDU)
        yield World(kernel, memory, container, ioas, ioas.open_device(OTHER))


NO_MEMORY = "is no memory that devices can be let reach"
NUMBERS = "are numbers of bytes, whole ones"
AN_ACCESS = "access must be an Access"
Row = tuple[Callable[[World], object], str]
ROWS: dict[str, Row] = {
    "map_dma": (lambda world: world.container.map_dma(IOVA, DATA, 0, SIZE), f"map_dma.*{NO_MEMORY}"),
    "update_vaddr": (lambda world: world.container.update_vaddr(IOVA, DATA, 0, SIZE), f"update_vaddr.*{NO_MEMORY}"),
    "map_anywhere": (lambda world: world.ioas.map_anywhere(DATA, 0, SIZE), f"map_anywhere.*{NO_MEMORY}"),
    "size": (lambda world: world.container.map_dma(IOVA, world.memory, 0, float(SIZE)), NUMBERS),  # type: ignore[arg-type]
    "iova": (lambda world: world.ioas.map_dma("0", world.memory, 0, SIZE), NUMBERS),  # type: ignore[arg-type]
    "granularity": (
        lambda world: world.ioas.map_dma(IOVA, world.memory, 0, SIZE, granularity="4K"),  # type: ignore[arg-type]
        NUMBERS,
    ),
    "access": (lambda world: world.ioas.map_dma(IOVA, world.memory, 0, SIZE, 3), AN_ACCESS),  # type: ignore[arg-type]
    "access anywhere": (lambda world: world.ioas.map_anywhere(world.memory, 0, SIZE, 3), AN_ACCESS),  # type: ignore[arg-type]
    "attach": (lambda world: world.container.attach(3), "attach group: 3 is no Group"),  # type: ignore[arg-type]
    "detach": (lambda world: world.container.detach(3), "detach group: 3 is no Group"),  # type: ignore[arg-type]
    "on_attach": (lambda world: world.container.on_attach(lambda: None), "is no bound method"),
    "copy_from": (lambda world: world.ioas.copy_from(world.container, IOVA, SIZE, IOVA), "is no Ioas"),  # type: ignore[arg-type]
    "page_table": (lambda world: world.ioas.page_table(OTHER), "is no IommufdDevice"),  # type: ignore[arg-type]
    "attach to": (lambda world: world.device.attach(world.container), "is no Translation"),  # type: ignore[arg-type]
    "Ioas": (lambda world: Ioas(world.container), "is no Iommufd"),  # type: ignore[arg-type]
    "CdevDevice": (lambda world: CdevDevice(world.ioas, EDU), "is no Iommufd"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", ROWS)
def test_what_is_no_such_thing_is_told_in_a_sentence(world: World, name: str) -> None:
    act, meaning = ROWS[name]
    with pytest.raises(InvalidArgument, match=meaning):
        act(world)
    assert (world.container.mappings(), world.ioas.mappings()) == ((), ())


def test_a_descriptor_is_closed_with_such_a_failure() -> None:
    kernel = SimKernel(edu_devices=1)
    fd = kernel.open("/dev/vfio/3", os.O_RDWR)
    with pytest.raises(InvalidArgument, match="is no MappingSpace"):
        Group.from_fd(fd, 3, kernel=kernel, container=3)  # type: ignore[arg-type]
    Group(3, kernel=kernel).close()
