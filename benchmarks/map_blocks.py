"""Mapping blocks through DmaMapper beside a C loop that makes the same ioctls, on the real kernel.

Run it where there is an edu device and a C compiler: make bench-vm.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
import time
from pathlib import Path

from pyvfio import Container, LinuxKernel, Memory, MemoryKind
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import bind, restore
from virtiomem.discard import Section
from virtiomem.mapping import DmaMapper

BLOCK = 2 << 20
IOVA = 0x1_0000_0000
WARM_UP = 4

C_LOOP = """
#include <linux/vfio.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <time.h>

int64_t map_blocks(int fd, uint64_t vaddr, uint64_t iova, uint64_t size, uint64_t block)
{
    struct timespec begin, end;
    struct vfio_iommu_type1_dma_map map = { .argsz = sizeof map, .flags = 3, .size = block };

    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (uint64_t done = 0; done < size; done += block) {
        map.vaddr = vaddr + done;
        map.iova = iova + done;
        if (ioctl(fd, VFIO_IOMMU_MAP_DMA, &map))
            return -1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    return (end.tv_sec - begin.tv_sec) * 1000000000ll + end.tv_nsec - begin.tv_nsec;
}

int unmap_blocks(int fd, uint64_t iova, uint64_t size)
{
    struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof unmap, .iova = iova, .size = size };

    return ioctl(fd, VFIO_IOMMU_UNMAP_DMA, &unmap) || unmap.size != size;
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=512, help="blocks of 2 MiB (default: %(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=12, help="runs of each; the fastest counts (default: %(default)s)"
    )
    options = parser.parse_args()
    kernel = LinuxKernel()
    c_loop = _compile()
    address = edu_addresses(kernel)[0]
    before = bind(kernel, address)
    try:
        print(f"map {options.blocks} blocks of 2 MiB, fastest of {options.repeat}")
        print(f"{'memory':8}{'C loop':>12}{'DmaMapper':>12}{'ratio':>8}")
        for kind in (MemoryKind.ANONYMOUS, MemoryKind.HUGETLB):
            with Container() as container:
                container.open_device(address)
                in_c, in_python = _measure(container, kind, options.blocks * BLOCK, options.repeat, c_loop)
            print(f"{kind.value:8}{in_c / 1e6:>9.2f} ms{in_python / 1e6:>9.2f} ms{in_python / in_c:>7.2f}x")
    finally:
        restore(kernel, before)


def _measure(
    container: Container, kind: MemoryKind, size: int, repeat: int, c_loop: ctypes.CDLL
) -> tuple[float, float]:
    in_c: list[int] = []
    in_python: list[int] = []
    with Memory.allocate(kind, size) as memory:
        memory.populate(0, size)
        mapper = DmaMapper(container)
        section = Section(memory, 0, IOVA, size)
        for _ in range(WARM_UP + repeat):
            nanoseconds = c_loop.map_blocks(container.fd, memory.address, IOVA, size, BLOCK)
            if nanoseconds < 0 or c_loop.unmap_blocks(container.fd, IOVA, size):
                raise SystemExit("the C loop failed")
            in_c.append(nanoseconds)
            start = time.perf_counter_ns()
            mapper.populate(section, BLOCK)
            in_python.append(time.perf_counter_ns() - start)
            mapper.discard(section)
    return min(in_c[WARM_UP:]), min(in_python[WARM_UP:])


def _compile() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as directory:
        source, library = Path(directory, "loop.c"), Path(directory, "loop.so")
        source.write_text(C_LOOP)
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        loop = ctypes.CDLL(str(library))
    loop.map_blocks.restype = ctypes.c_int64
    loop.map_blocks.argtypes = [ctypes.c_int, *[ctypes.c_uint64] * 4]
    loop.unmap_blocks.argtypes = [ctypes.c_int, *[ctypes.c_uint64] * 2]
    return loop


if __name__ == "__main__":
    main()
