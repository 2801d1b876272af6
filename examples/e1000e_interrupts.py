"""A network controller: read an Intel 82574's address and link, and have each of its MSI-X vectors fire.

    tools/vm -- sh -c 'pyvfio bind 0000:03:00.0 && python examples/e1000e_interrupts.py 0000:03:00.0'

Numbers in brackets are sections of Intel's "82574 GbE Controller Family Datasheet". Nothing is sent or received.
"""

from __future__ import annotations

import asyncio
import sys

from pyvfio import Container, Device, Field, InterruptIndex, Interrupts, Kernel, LinuxKernel, Register, Registers

VECTORS = ("received", "sent", "other")
# Bits of the interrupt registers [10.2.4], one for each vector's cause.
CAUSES = {"received": 1 << 20, "sent": 1 << 22, "other": 1 << 24}
VALID = 0x8  # in each nibble of the vector allocation, beside the number of the vector


class Controller(Registers):
    """Registers of BAR 0 [10.2]."""

    control = Register(0x0000, 32)
    reset = Field(control, 26)
    link_up = Field(Register(0x0008, 32), 1)
    interrupt_cause = Register(0x00C0, 32)  # reading it clears it
    interrupt_cause_set = Register(0x00C8, 32)
    interrupt_mask_set = Register(0x00D0, 32)
    interrupt_mask_clear = Register(0x00D8, 32)
    vector_allocation = Register(0x00E4, 32)
    address_low = Register(0x5400, 32)
    address_high = Field(Register(0x5404, 32), 0, 15)

    @property
    def mac(self) -> str:
        octets = self.address_low.to_bytes(4, "little") + self.address_high.to_bytes(2, "little")
        return octets.hex(":")


async def wait_for_all(controller: Controller, interrupts: Interrupts) -> None:
    """A task waits for each vector while the causes are set, last first."""

    async def wait(vector: int) -> None:
        await interrupts.wait_async(vector)
        print(f"vector {vector}: {VECTORS[vector]}")

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for vector in range(len(VECTORS)):
            tasks.create_task(wait(vector))
        await asyncio.sleep(0)
        for name in reversed(VECTORS):
            controller.interrupt_cause_set = CAUSES[name]


def drive(device: Device) -> None:
    device.config.enable_bus_master()
    controller = Controller(device.region(0))
    controller.interrupt_mask_clear = 0xFFFF_FFFF
    print(f"{device.address}: {controller.mac}, link {'up' if controller.link_up else 'down'}")

    interrupts = device.interrupts(InterruptIndex.MSIX)
    interrupts.enable(len(VECTORS))
    # Which vector is whose: received in the lowest nibble, sent in the third, other in the fifth [10.2.4.9].
    controller.vector_allocation = 0 | VALID | (1 | VALID) << 8 | (2 | VALID) << 16
    controller.interrupt_mask_set = sum(CAUSES.values())
    asyncio.run(wait_for_all(controller, interrupts))
    controller.interrupt_mask_clear = 0xFFFF_FFFF


def main(kernel: Kernel, address: str) -> None:
    with Container(kernel=kernel) as space:
        drive(space.open_device(address))


if __name__ == "__main__":
    main(LinuxKernel(), sys.argv[1])
