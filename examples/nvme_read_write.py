"""An NVMe driver in Python: bring a controller up, identify it, then write a mebibyte to its disk and read it back.

    tools/vm -- sh -c 'pyvfio bind 0000:02:00.0 && python examples/nvme_read_write.py 0000:02:00.0'

What is in the first mebibyte of the disk is lost. Numbers in brackets are sections of the NVM Express Base
Specification 1.4.
"""

from __future__ import annotations

import os
import struct
import sys
import time

from pyvfio import (
    Container,
    Device,
    Field,
    InterruptIndex,
    Kernel,
    LinuxKernel,
    Memory,
    MemoryKind,
    Register,
    Registers,
    memory_barrier,
)

SPACE = Container  # or Ioas: the same through /dev/iommu and the device's own node

MEBIBYTE = 1 << 20
PAGE = 4096
IOVA = 0x1000_0000  # where the controller sees our memory; any address in space.iova_ranges
ADMIN, IO = 0, 1  # our two pairs of queues, and the MSI-X vectors that announce their completions
DEPTH = 64  # entries of a queue: 64 commands of 64 bytes fill a page
# Of our memory: a page for each queue, one for lists of pages, one for answers, and then the data.
SUBMISSIONS, COMPLETIONS, PAGE_LIST, ANSWER, DATA = [0, PAGE], [2 * PAGE, 3 * PAGE], 4 * PAGE, 5 * PAGE, 8 * PAGE


class Controller(Registers):
    """Registers of BAR 0 [3.1]."""

    capabilities = Register(0x00, 64)
    timeout = Field(capabilities, 24, 31)  # in units of half a second
    version = Register(0x08, 32)
    configuration = Register(0x14, 32)
    enable = Field(configuration, 0)
    status = Register(0x1C, 32)
    ready = Field(status, 0)
    admin_queue_sizes = Register(0x24, 32)
    admin_submissions = Register(0x28, 64)
    admin_completions = Register(0x30, 64)


class Nvme:
    """A controller that is up, with one pair of queues for commands to its disk."""

    def __init__(self, device: Device, memory: Memory) -> None:
        """memory: mapped for the device at IOVA."""
        self.memory = memory
        device.config.enable_bus_master()
        self.bar = device.region(0)
        self.controller = Controller(self.bar)
        self.interrupts = device.interrupts(InterruptIndex.MSIX)
        self.interrupts.enable(2)
        self.tails, self.heads, self.phases = [0, 0], [0, 0], [1, 1]

        self.set_enabled(0)
        self.controller.admin_queue_sizes = DEPTH - 1 | DEPTH - 1 << 16
        self.controller.admin_submissions = IOVA + SUBMISSIONS[ADMIN]
        self.controller.admin_completions = IOVA + COMPLETIONS[ADMIN]
        self.set_enabled(1, entry_sizes=6 << 16 | 4 << 20)  # commands of 2**6 bytes, completions of 2**4

        queue = IO | DEPTH - 1 << 16
        self.run(ADMIN, 0x05, queue, IO << 16 | 0b11, data=IOVA + COMPLETIONS[IO])  # with interrupts [5.3]
        self.run(ADMIN, 0x01, queue, IO << 16 | 0b01, data=IOVA + SUBMISSIONS[IO])  # [5.4]
        _, _, _, model, _, self.largest_log2 = struct.unpack_from("<HH20s40s13sB", self.identify(1))
        self.model = model.decode().strip()
        self.blocks, formatted, block_log2 = struct.unpack_from("<Q18xB103xB", self.identify(0, namespace=1))
        assert formatted & 0xF == 0, "the example knows the first block format only"
        self.block_size = 1 << block_log2

    def set_enabled(self, enabled: int, entry_sizes: int = 0) -> None:
        """Start or stop the controller and wait until it has [3.1.5]: nothing interrupts for that."""
        self.controller.configuration = enabled | entry_sizes
        deadline = time.monotonic() + self.controller.timeout / 2 + 1
        while self.controller.ready != enabled:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the controller does not {'start' if enabled else 'stop'}")
            time.sleep(0.001)

    def run(self, queue: int, opcode: int, *words: int, namespace: int = 0, data: int = 0, more: int = 0) -> None:
        """Submit a command [4.2], ring the doorbell [3.1.16], and wait for the interrupt and the completion [4.6]."""
        cdw10, cdw11, cdw12 = (*words, 0, 0, 0)[:3]
        command = struct.pack("<BBHI16xQQIII12x", opcode, 0, 1, namespace, data, more, cdw10, cdw11, cdw12)
        self.memory.write(SUBMISSIONS[queue] + 64 * self.tails[queue], command)
        self.tails[queue] = (self.tails[queue] + 1) % DEPTH
        self.bar.write32(0x1000 + 8 * queue, self.tails[queue])  # comes after all that we wrote to memory

        place = COMPLETIONS[queue] + 16 * self.heads[queue]
        while (status := struct.unpack("<H", self.memory.read(place + 14, 2))[0]) & 1 != self.phases[queue]:
            if not self.interrupts.wait(timeout=10, vector=queue):
                raise TimeoutError(f"command {opcode:#04x} has not completed")
        memory_barrier()  # what the controller wrote before the phase, such as our data, is read after it
        self.heads[queue] = (self.heads[queue] + 1) % DEPTH
        self.phases[queue] ^= not self.heads[queue]  # it turns over each time round
        self.bar.write32(0x1004 + 8 * queue, self.heads[queue])
        if status >> 1:
            raise OSError(f"command {opcode:#04x} failed with status {status >> 1:#x}")

    def identify(self, what: int, namespace: int = 0) -> bytes:
        """A page of data about the controller (1) or a namespace (0) [5.15]."""
        self.run(ADMIN, 0x06, what, namespace=namespace, data=IOVA + ANSWER)
        return self.memory.read(ANSWER, PAGE)

    def move(self, opcode: int, size: int) -> None:
        """Write (1) the first size bytes of the disk from our data, or read (2) them into it [6.9, 6.15]."""
        step = min(MEBIBYTE, PAGE << self.largest_log2 if self.largest_log2 else MEBIBYTE)
        for start in range(0, size, step):
            first = IOVA + DATA + start
            pages = [first + offset for offset in range(PAGE, step, PAGE)]  # all but the first go into a list [4.3]
            self.memory.write(PAGE_LIST, struct.pack(f"<{len(pages)}Q", *pages))
            block, count = start // self.block_size, step // self.block_size
            self.run(IO, opcode, block, 0, count - 1, namespace=1, data=first, more=IOVA + PAGE_LIST)


def main(kernel: Kernel, address: str) -> None:
    with (
        SPACE(kernel=kernel) as space,
        Memory.allocate(MemoryKind.ANONYMOUS, 2 * MEBIBYTE, kernel=kernel) as memory,
    ):
        memory.populate(0, memory.size)
        device = space.open_device(address)
        space.map_dma(IOVA, memory, 0, memory.size)
        nvme = Nvme(device, memory)
        print(f"{nvme.model}: {nvme.blocks} blocks of {nvme.block_size} bytes")
        content = os.urandom(MEBIBYTE)
        memory.write(DATA, content)
        nvme.move(0x01, MEBIBYTE)
        memory.write(DATA, bytes(MEBIBYTE))
        nvme.move(0x02, MEBIBYTE)
        assert memory.read(DATA, MEBIBYTE) == content
        print(f"wrote and read back {MEBIBYTE} bytes through MSI-X completions")
        nvme.set_enabled(0)


if __name__ == "__main__":
    main(LinuxKernel(), sys.argv[1])
