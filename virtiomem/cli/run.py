"""virtiomem run"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from pyvfio.commandline import Command, Output, size
from pyvfio.kernel import Kernel, LinuxKernel
from pyvfio.sim import SimKernel
from pyvfio.sysfs import full_address, named_address
from pyvfio.units import format_size
from virtiomem.cli.changes.space_options import add_spaces
from virtiomem.cli.memory import MemoryChoice, add_memory, add_prealloc_threads
from virtiomem.cli.recording import add_record, recording
from virtiomem.cli.signals import ending
from virtiomem.cli.telling import telling
from virtiomem.control import ControlServer, MetricsPort, places
from virtiomem.planner import Limits, plan
from virtiomem.serving import EventLoop
from virtiomem.stand_in import Manager, ManagerOptions


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--region", type=size, required=True, metavar="SIZE", help="of the region")
    parser.add_argument("--block-size", type=size, metavar="SIZE", help="default: the smallest that fits, as plan says")
    parser.add_argument("--requested", type=size, default=0, metavar="SIZE", help="to begin with (default: nothing)")
    parser.add_argument("--address", type=size, default=0x1_0000_0000, help="guest-physical (default: 4G)")
    add_memory(parser)
    add_prealloc_threads(parser)
    parser.add_argument("--simulate", type=int, metavar="N", help="N devices of a simulated kernel instead")
    add_spaces(parser)
    parser.add_argument(
        "--exercise", action="store_true", help="the first device, an edu, does DMA to plugged blocks all the while"
    )
    parser.add_argument("--name", default="vm0", metavar="NAME", help="of the device and its socket (default: vm0)")
    parser.add_argument("--socket", type=Path, metavar="FILE", help="the control socket (default: by the name)")
    parser.add_argument("--metrics", type=int, metavar="PORT", help="serve metrics on 127.0.0.1; 0: any port")
    add_record(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    kernel, devices = _machine(options)
    memory: MemoryChoice = options.memory
    spaces = min(len(devices), 1) if options.one_container else len(devices)
    limits = Limits.of_host(page_size=memory.page_size, kernel=kernel)
    if options.iommufd:
        # It takes any number of mappings.
        limits = replace(limits, mappings=None)
    block_size = options.block_size or plan(options.region, limits=limits, address_spaces=spaces).block_size
    if options.socket is None:
        places.make_directory()
    socket = options.socket or places.socket_path(options.name)
    with EventLoop([], kernel=LinuxKernel()) as loop, ending(loop) as reason, telling(output) as told:
        with ExitStack() as stack:
            control = stack.enter_context(ControlServer(str(socket), loop.stop))
            manager = stack.enter_context(
                Manager(
                    ManagerOptions(
                        kernel=kernel,
                        name=options.name,
                        devices=devices,
                        memory_kind=memory.kind,
                        page_size=memory.page_size,
                        region_size=options.region,
                        block_size=block_size,
                        address=options.address,
                        requested_size=options.requested,
                        one_container=options.one_container,
                        iommufd=options.iommufd,
                        exercise=options.exercise,
                        prealloc_threads=options.prealloc_threads,
                        record=stack.enter_context(recording(options)),
                    ),
                    control.changed,
                )
            )
            control.manage(manager.managed)
            stack.callback(control.forget, options.name)
            metrics = None if options.metrics is None else MetricsPort(options.metrics, control.metrics)
            if metrics is not None:
                stack.enter_context(metrics)
            url = None if metrics is None else metrics.url
            told.record(
                {"event": "ready", "socket": str(socket), "metrics": url, "pid": os.getpid(), "devices": list(devices)}
            )
            told.text(f"{options.name}: {format_size(options.region)} of {memory} memory at {options.address:#x}, "
                        f"blocks of {format_size(block_size)}, {kernel.name} kernel")  # fmt: skip
            told.text(f"mapped into {spaces} address space{'' if spaces == 1 else 's'}: {', '.join(devices) or 'none'}")
            told.text(f"control socket {socket}" + (f", metrics {url}" if url else ""))
            told.text("ready: virtiomem show, resize, stats, stop; Ctrl-C ends it")
            loop.run()
        told.record({"event": "stopped", "reason": reason[-1]})
        told.text(f"stopped by {reason[-1]}: nothing is plugged, mapped or listening any more")
    return 0


def _machine(options: argparse.Namespace) -> tuple[Kernel, list[str]]:
    """The kernel that options ask for, and the PCI addresses of its devices."""
    if options.device:
        kernel = LinuxKernel()
        return kernel, [full_address(named_address(kernel, device)) for device in options.device]
    simulated = SimKernel(edu_devices=1 if options.simulate is None else options.simulate)
    return simulated, sorted(simulated.functions)


COMMAND = Command(
    "run",
    "run a manager: a region, mapped into devices, that can be resized",
    _run,
    _configure,
    description="Manage a region of memory until stopped: a virtio-mem device with a stand-in for the guest that\n"
    "plugs and unplugs, block by block, what resize asks for, each block mapped into every device's\n"
    "container. Without --device a simulated kernel serves. The control socket is its owner's alone.",
    examples=(
        ("virtiomem run --region 1G --simulate 2", "two simulated devices"),
        ("virtiomem run --region 8G --memory hugetlb --device 03:00.0 --device 04:00.0", "two real ones"),
        ("virtiomem run --region 1G --requested 256M --metrics 9500", "256 MiB at once, and metrics"),
    ),
    json="a line when it is ready, and one when it has stopped",
)
