"""pyvfio irq"""

from __future__ import annotations

import argparse
import sys
import time

from pyvfio.cli.bench import add_device, open_it
from pyvfio.commandline import Command, Failure, Output
from pyvfio.device import Device, InterruptIndex

_KINDS = [index.name.lower() for index in InterruptIndex]


def _configure(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "kind", nargs="?", choices=_KINDS, help="which kind (default: the first of msix, msi, intx that it has)"
    )
    parser.add_argument(
        "--wait", type=float, metavar="SECONDS", help="enable the vectors and wait so long for interrupts"
    )
    parser.add_argument("--vectors", type=int, metavar="N", help="how many to enable (default: all the device has)")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many interrupts")
    parser.add_argument(
        "--trigger", type=int, metavar="VECTOR", help="have the kernel fire this one, to see that they arrive"
    )


def _run(options: argparse.Namespace, output: Output) -> int:
    with open_it(options) as device:
        counts = {name: _count(device, index) for name, index in zip(_KINDS, InterruptIndex, strict=True)}
        if options.wait is None:
            output.data({"address": device.address, "vectors": counts, "seen": None})
            for name, count in counts.items():
                output.text(f"  {name:<5}  {count:>4} {'vector' if count == 1 else 'vectors'}")
            return 0
        kind = options.kind or next((name for name in ("msix", "msi", "intx") if counts[name]), None)
        if kind is None or not counts[kind]:
            raise Failure(f"{device.address} has no interrupts{f' of the kind {kind}' if kind else ''}")
        seen = _wait(device, InterruptIndex[kind.upper()], options, output, options.vectors or counts[kind])
    output.data({"address": device.address, "vectors": counts, "seen": seen})
    return 0 if seen else 1


def _wait(
    device: Device, index: InterruptIndex, options: argparse.Namespace, output: Output, vectors: int
) -> list[dict[str, int | float]]:
    """Enable vectors, print each interrupt as it comes, and return them in order.

    seconds: from the start until it was seen. vector: which one fired. times: how often since it was last seen.
    """
    interrupts = device.interrupts(index)
    interrupts.enable(vectors)
    print(f"waiting for {index.name}, {vectors} of them enabled; end with Ctrl-C", file=sys.stderr, flush=True)
    seen: list[dict[str, int | float]] = []
    start = time.monotonic()
    if options.trigger is not None:
        interrupts.trigger(options.trigger)
    while options.count is None or sum(int(each["times"]) for each in seen) < options.count:
        fired = interrupts.wait_any(max(options.wait - (time.monotonic() - start), 0))
        if not fired:
            break
        for vector, times in sorted(fired.items()):
            after = round(time.monotonic() - start, 6)
            seen.append({"seconds": after, "vector": vector, "times": times})
            output.text(f"{after:10.6f} s  vector {vector}" + (f"  {times} times" if times > 1 else ""))
        if index is InterruptIndex.INTX:
            interrupts.unmask()
    if not seen:
        output.text(f"none came in {options.wait:g} s")
    return seen


def _count(device: Device, index: InterruptIndex) -> int:
    """How many vectors of a kind the device has; 0 for a kind that it does not know."""
    try:
        return device.interrupts(index).info.count
    except OSError:
        return 0


COMMAND = Command(
    "irq",
    "show what interrupts a device has, or wait for them",
    _run,
    _configure,
    description="Open a device that is bound to VFIO and show how many vectors of each kind it has; with --wait\n"
    "enable them and show each interrupt as it comes. Opening resets the device if it can be reset alone, so\n"
    "it raises one only by itself, or when --trigger has the kernel do as if. Exit status 1 if none came.",
    examples=(
        ("pyvfio irq 03:00.0", "how many of each kind"),
        ("pyvfio irq 03:00.0 --wait 10", "what comes within ten seconds"),
        ("pyvfio irq 03:00.0 msi --wait 1 --trigger 0 --count 1", "whether one arrives at all"),
    ),
)
