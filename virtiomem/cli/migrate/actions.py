"""What each word of virtiomem migrate does."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from pyvfio.commandline import Failure, Output
from pyvfio.units import format_size
from virtiomem.cli.manager import only_device
from virtiomem.cli.migrate.bitmap_file import BitmapFile
from virtiomem.control import ControlClient

_PATIENCE = 60.0
_LARGEST_FILE = 64 << 20
"""Bytes of a file that is read as a state: more than any that a manager takes."""


def begin(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    """Begin, and stay until the migration has ended, unless it is kept."""
    begun = client.begin_migration(options.device, keep=options.keep)
    output.record({"event": "begun", **begun.data()})
    output.text(f"{begun.device}: no block changes any more, and what devices write is logged")
    for space in begun.unlogged:
        output.text(f"  all that {space.name} maps counts as written: {space.reason}")
    if options.keep is not None:
        output.text(f"ends {options.keep:g} s after it was last asked for anything, or with virtiomem migrate cancel")
        return 0
    output.text("ends with this command: Ctrl-C, or virtiomem migrate cancel")
    revision = -1
    while True:
        revision, devices = client.show(after=revision, timeout=_PATIENCE)
        if not only_device(devices, begun.device).migrating:
            break
    output.record({"event": "ended", "device": begun.device})
    output.text(f"{begun.device}: it was cancelled, and blocks may change again")
    return 0


def dirty(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    """Read a round of dirty pages, and print it or write it to a file."""
    pages = client.dirty_pages(options.device)
    count = size = 0
    with ExitStack() as stack:
        bitmap = None
        if options.bitmap is not None:
            bitmap = stack.enter_context(BitmapFile(options.bitmap, pages.page_size, pages.region_size))
        for run in pages:
            count, size = count + 1, size + run.size
            if bitmap is not None:
                bitmap.add(run)
            else:
                output.record({"event": "dirty", "offset": run.start, "size": run.size})
                output.text(f"  {run.start:#014x}  {format_size(run.size):>9}")
    output.record({"event": "read", "page_size": pages.page_size, "runs": count, "dirty_bytes": size})
    where = "" if options.bitmap is None else f", in {options.bitmap}: a bit for each {format_size(pages.page_size)}"
    output.text(f"{format_size(size)} dirty, in {count} run{'' if count == 1 else 's'}{where}")
    return 0


def save(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    """Write the state to a file."""
    path = options.file
    state = client.save_state(options.device)
    path.write_bytes(state)
    output.record({"event": "saved", "file": str(path), "size": len(state)})
    output.text(f"{path}: the state of the device, {len(state)} bytes, without the content of its memory")
    return 0


def load(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    """Load a state from a file."""
    path = options.file
    with path.open("rb") as file:
        state = file.read(_LARGEST_FILE + 1)
    if len(state) > _LARGEST_FILE:
        raise Failure(f"{path} is no state of a device: it has more than {format_size(_LARGEST_FILE)}")
    status = client.load_state(state, options.device)
    output.record({"event": "loaded", "device": status.name, "plugged_size": status.plugged_size})
    output.text(f"{status.name}: {format_size(status.plugged_size)} plugged, as they were; their content is to come")
    return 0


def cancel(client: ControlClient, options: argparse.Namespace, output: Output) -> int:
    """End the migration."""
    device = options.device or only_device(client.show()[1], None).name
    client.cancel_migration(device)
    output.record({"event": "cancelled", "device": device})
    output.text(f"{device}: blocks may change again, and nothing is logged any more")
    return 0
