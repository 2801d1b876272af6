"""pyvfio dump"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from pyvfio.cli.bench import add_device, number, open_it
from pyvfio.commandline import Command, Output, size
from pyvfio.device import Device, Region, RegionIndex
from pyvfio.host.inspect import capabilities, header, in_words, region_index, region_of

_LINE = 16
_FIRST = 256


def _configure(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "region", nargs="?", default="config", metavar="REGION", help="config (default), bar0 to bar5, rom, or a number"
    )
    parser.add_argument("--offset", type=number, default=0, metavar="N", help="bytes to begin at (default: 0)")
    parser.add_argument("--size", type=size, metavar="SIZE", help="how much (default: all of config space, else 256)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the bytes there instead of showing them")


def _run(options: argparse.Namespace, output: Output) -> int:
    is_config = region_index(options.region) == RegionIndex.CONFIG
    with open_it(options) as device:
        region = region_of(device, options.region)
        rest = max(region.size - options.offset, 0)
        wanted = min(rest, options.size or (rest if is_config else _FIRST))
        data = region.read(options.offset, wanted) if is_config else _registers(region, options.offset, wanted)
        decoded = list(_decoded(device)) if is_config else []
    output.data(
        {
            "address": device.address,
            "region": options.region,
            "offset": options.offset,
            "bytes": data.hex(),
            "decoded": [{"name": name, "text": text} for name, text in decoded],
        }
    )
    for name, text in decoded:
        output.text(f"  {name:<16}  {text}".rstrip())
    if options.output:
        options.output.write_bytes(data)
    else:
        for line in _hex(data, options.offset):
            output.text(line)
    return 0


def _registers(region: Region, offset: int, size: int) -> bytes:
    """size bytes of a region from offset on, read in whole accesses of 32 bits, as registers need it."""
    end = offset + size
    words = range(offset // 4 * 4, min(-(-end // 4) * 4, region.size // 4 * 4), 4)
    data = b"".join(region.read_register(at, 4).to_bytes(4, "little") for at in words)
    return data[offset % 4 :][:size]


def _decoded(device: Device) -> Iterator[tuple[str, str]]:
    """The names of registers and capabilities in config space, and what they say."""
    yield from header(device.config)
    for capability in capabilities(device.config):
        yield f"[{capability.offset:03x}] {capability.name}", in_words(capability)


def _hex(data: bytes, offset: int) -> Iterator[str]:
    """Lines of sixteen bytes each. A "*" stands for lines that are equal to the one above."""
    before, starred = b"", False
    for at in range(0, len(data), _LINE):
        line = data[at : at + _LINE]
        if line == before and at + _LINE < len(data):
            if not starred:
                yield "*"
            starred = True
            continue
        before, starred = line, False
        yield f"{offset + at:04x}: {line.hex(' ')}"


COMMAND = Command(
    "dump",
    "show config space decoded, or a region as bytes",
    _run,
    _configure,
    description="Open a device that is bound to VFIO and show its config space with its capabilities decoded, or\n"
    "what a BAR holds, read in accesses of 32 bits. Opening resets the device, if it can be reset alone. Reading some\n"
    "registers changes them. VFIO shows some of config space as it would have a guest see it: the BARs' addresses.",
    examples=(
        ("pyvfio dump 03:00.0", "config space"),
        ("pyvfio dump 03:00.0 bar0 --size 4K", "the first 4 KiB of a BAR"),
        ("pyvfio dump 03:00.0 rom --size 64K --output card.rom", "an option ROM, into a file"),
    ),
)
