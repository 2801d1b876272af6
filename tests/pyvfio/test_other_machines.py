"""Machines that are not x86: native words of either byte order, pages and huge pages of other sizes."""

from __future__ import annotations

import struct
import sys

import pytest

from pyvfio import EventFd, LinuxKernel, Memory, MemoryKind, MemoryUnavailable
from pyvfio.dma import bitmap_of, bits_of
from pyvfio.dma.bits import words_in_order
from pyvfio.dma.dirty import DirtyBitmap
from pyvfio.errors import VfioError
from pyvfio.kernel import huge_page_sizes
from pyvfio.sim import SimKernel
from pyvfio.sim import kernel as sim_kernel

PAGE = 4096


def test_an_event_counter_is_a_native_word() -> None:
    kernel = LinuxKernel()
    event = EventFd(kernel)
    kernel.write(event.fileno(), (3).to_bytes(8, sys.byteorder))
    assert event.pending() == 3
    event.signal()
    assert kernel.read(event.fileno(), 8) == (1).to_bytes(8, sys.byteorder)
    event.close()


@pytest.mark.parametrize(("byteorder", "letter"), [("little", "<"), ("big", ">")])
def test_a_bitmap_is_words_of_64_bits(byteorder: str, letter: str) -> None:
    """Page 0 is the lowest bit of the first word, wherever the processor has that in memory."""
    words = 1 << 0 | 1 << 63, 1 << 1
    in_memory = struct.pack(f"{letter}2Q", *words)
    assert words_in_order(in_memory, byteorder) == struct.pack("<2Q", *words)
    assert words_in_order(words_in_order(in_memory, byteorder), byteorder) == in_memory


def test_bitmaps_are_native() -> None:
    bits = 1 << 0 | 1 << 63 | 1 << 65
    assert bitmap_of(bits) == struct.pack("=2Q", bits & (1 << 64) - 1, bits >> 64)
    assert bits_of(bitmap_of(bits), 128 * PAGE, PAGE) == bits
    assert [run.start // PAGE for run in DirtyBitmap(0, 128 * PAGE, PAGE, bits).runs()] == [0, 63, 65]


@pytest.mark.parametrize("host", ["big endian", "64 KiB"])
def test_a_kernel_is_not_simulated_where_it_could_not_be_right(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    if host == "64 KiB":
        monkeypatch.setattr(sim_kernel, "host_page_size", lambda: 64 << 10)
    else:
        monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(VfioError, match=host):
        SimKernel()


def test_a_size_of_huge_pages_that_the_host_lacks_is_named_with_those_it_has() -> None:
    sizes = huge_page_sizes()
    absent = next(1 << shift for shift in range(20, 34) if 1 << shift not in sizes)
    with pytest.raises(MemoryUnavailable, match="the sizes that this host has: ") as caught:
        Memory.allocate(MemoryKind.HUGETLB, absent, page_size=absent)
    assert all(f"{size >> 10} KiB" in str(caught.value) for size in sizes)
    assert "echo" not in str(caught.value)
