"""A first driver: the registers, the interrupts and the DMA engine of edu, QEMU's teaching device.

    tools/vm -- sh -c 'pyvfio bind 0000:00:03.0 && python examples/edu_transfer.py 0000:00:03.0'

The device is described in docs/specs/edu.rst of QEMU. It holds a buffer of 4096 bytes, and copies between that and
memory.
"""

from __future__ import annotations

import sys

from pyvfio import (
    Container,
    Device,
    InterruptIndex,
    Interrupts,
    Kernel,
    LinuxKernel,
    Memory,
    MemoryKind,
    Register,
    Registers,
)

IOVA = 0x1_0000_0000  # where the device sees our memory; any address in space.iova_ranges
BUFFER = 0x40000  # where it has its buffer, for its own DMA engine
RUN, FROM_BUFFER, INTERRUPT = 1, 2, 4
COMPUTING, INTERRUPT_WHEN_COMPUTED = 0x01, 0x80


class EduRegisters(Registers):
    identification = Register(0x00, 32)
    liveness = Register(0x04, 32)  # gives back what it was given, inverted
    factorial = Register(0x08, 32)  # takes a number, and some time later has its factorial
    status = Register(0x20, 32)
    interrupt_status = Register(0x24, 32)
    interrupt_raise = Register(0x60, 32)
    interrupt_acknowledge = Register(0x64, 32)
    dma_source = Register(0x80, 64)
    dma_destination = Register(0x88, 64)
    dma_count = Register(0x90, 64)
    dma_command = Register(0x98, 64)


def look_at_registers(edu: EduRegisters) -> None:
    print(f"edu version {edu.identification >> 24}.{edu.identification >> 16 & 0xFF}")
    edu.liveness = 0x1234_5678
    assert edu.liveness == ~0x1234_5678 & 0xFFFF_FFFF


def compute(edu: EduRegisters, interrupts: Interrupts, number: int) -> None:
    """Wait by the old interrupt line: it stays asserted until acknowledged, and VFIO masks it until told to go on."""
    edu.status = INTERRUPT_WHEN_COMPUTED
    edu.factorial = number
    wait(edu, interrupts)
    interrupts.unmask()
    print(f"{number}! = {edu.factorial}")


def copy(edu: EduRegisters, interrupts: Interrupts, source: int, destination: int, size: int) -> None:
    """Have the device copy size bytes into its buffer or out of it, and wait for its message."""
    edu.dma_source = source
    edu.dma_destination = destination
    edu.dma_count = size
    edu.dma_command = RUN | INTERRUPT | (FROM_BUFFER if source == BUFFER else 0)
    wait(edu, interrupts)


def wait(edu: EduRegisters, interrupts: Interrupts) -> None:
    if not interrupts.wait(timeout=10):
        raise TimeoutError("no interrupt")
    edu.interrupt_acknowledge = edu.interrupt_status


def drive(device: Device, memory: Memory) -> None:
    """memory: mapped for the device at IOVA."""
    edu = EduRegisters(device.region(0))
    look_at_registers(edu)

    intx = device.interrupts(InterruptIndex.INTX)
    intx.enable()
    compute(edu, intx, 10)
    intx.disable()

    # Messages are written by the device, as its DMA is: both need this.
    device.config.enable_bus_master()
    msi = device.interrupts(InterruptIndex.MSI)
    msi.enable()
    message = b"moved by the device, twice"
    memory.write(0, message)
    copy(edu, msi, IOVA, BUFFER, len(message))
    copy(edu, msi, BUFFER, IOVA + 0x1000, len(message))
    print(memory.read(0x1000, len(message)).decode())


def main(kernel: Kernel, address: str) -> None:
    with (
        Container(kernel=kernel) as space,
        Memory.allocate(MemoryKind.ANONYMOUS, 2 << 20, kernel=kernel) as memory,
    ):
        memory.populate(0, memory.size)
        device = space.open_device(address)
        space.map_dma(IOVA, memory, 0, memory.size)
        drive(device, memory)


if __name__ == "__main__":
    main(LinuxKernel(), sys.argv[1])
