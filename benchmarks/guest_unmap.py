"""A guest's UNMAP of many mappings: one call for the range beside one call for each, python -m benchmarks.guest_unmap.

The address space keeps books and maps nothing, so this is the library's own time. With --real it is a container on the
real kernel, with an edu device behind it: tools/vm --memory 3072 -- python -m benchmarks.guest_unmap --real.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from pyvfio import Container, LinuxKernel, Memory, MemoryKind
from pyvfio.dma import AddressSpace
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import bind, restore
from tests.support.virtiomem.spaces import RecordingAddressSpace
from virtiomem import GuestDomain, GuestIommu, Request, RequestType, VirtioMem
from virtiomem.trace import DmaLog

PAGE = 4096
BLOCK = 2 << 20
ADDRESS = 1 << 32
IOVA = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mappings", type=int, default=40000, help="of 4 KiB each (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="runs; the fastest counts (default: %(default)s)")
    parser.add_argument("--real", action="store_true", help="on the real kernel")
    options = parser.parse_args()
    count = options.mappings
    with ExitStack() as stack:
        space = stack.enter_context(_container() if options.real else _recording())
        size = -(-count * PAGE // BLOCK) * BLOCK
        memory = stack.enter_context(Memory.allocate(MemoryKind.ANONYMOUS, size))
        device = stack.enter_context(VirtioMem(memory, address=ADDRESS, block_size=BLOCK, requested_size=size))
        if any(device.handle(bytes(Request(RequestType.PLUG, ADDRESS, size // BLOCK)))):
            raise SystemExit("the memory could not be plugged")
        iommu = stack.enter_context(GuestIommu(device.discards, device.section, max_bytes=size, max_mappings=count))
        domain = iommu.open_domain()
        domain.join(space)
        order = list(range(count))
        random.Random(1).shuffle(order)
        each = min(_measure(domain, order, lambda: _one_by_one(domain, count)) for _ in range(options.repeat))
        once = min(_measure(domain, order, lambda: _at_once(domain, count)) for _ in range(options.repeat))
        print(f"UNMAP of {count} mappings in {space.name}, fastest of {options.repeat}")
        print(f"{'calls':>12}{'time':>12}")
        print(f"{count:>12}{each * 1e3:>9.0f} ms")
        print(f"{1:>12}{once * 1e3:>9.0f} ms   {each / once:.1f} times as fast")


def _measure(domain: GuestDomain, order: list[int], unmap: Callable[[], object]) -> float:
    for number, page in enumerate(order):
        domain.map(IOVA + number * PAGE, ADDRESS + page * PAGE, PAGE)
    start = time.perf_counter()
    unmap()
    passed = time.perf_counter() - start
    if domain.mappings:
        raise SystemExit("something is mapped still")
    return passed


def _one_by_one(domain: GuestDomain, count: int) -> None:
    for number in range(count):
        domain.unmap(IOVA + number * PAGE, PAGE)


def _at_once(domain: GuestDomain, count: int) -> None:
    domain.unmap(IOVA, count * PAGE)


@contextmanager
def _recording() -> Iterator[AddressSpace]:
    yield RecordingAddressSpace(0, DmaLog())


@contextmanager
def _container() -> Iterator[AddressSpace]:
    kernel = LinuxKernel()
    address = edu_addresses(kernel)[0]
    before = bind(kernel, address)
    try:
        with Container() as container:
            container.open_device(address)
            yield container
    finally:
        restore(kernel, before)


if __name__ == "__main__":
    main()
