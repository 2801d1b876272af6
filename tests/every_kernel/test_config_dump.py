"""Config space as text, for a report and for lspci."""

from __future__ import annotations

from pyvfio import Container, PciCommand
from tests.support.kernels.hardware import E1000E, bound
from tests.support.kernels.testbed import Testbed


def test_a_dump_has_every_byte_at_its_offset(testbed: Testbed) -> None:
    with bound(testbed, E1000E) as address, Container(kernel=testbed.kernel) as container:
        config = container.open_device(address).config
        config.command = PciCommand.MEMORY
        lines = config.dump().splitlines()
        assert lines[0].startswith("00: 86 80 d3 10 ")
        assert len(lines) == config.region.size // 16
        dumped = dict(line.split(": ") for line in lines)
        assert f"{config.region.size - 16:02x}" in dumped
        assert {len(bytes.fromhex(row)) for row in dumped.values()} == {16}
        for offset in range(0, 0x40, 2):
            row = bytes.fromhex(dumped[f"{offset & ~15:02x}"])
            expected = config.read_register(offset, 16).to_bytes(2, "little")
            assert row[offset % 16 : offset % 16 + 2] == expected
