"""tools/vm."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from vmlib.errors import VmError
from vmlib.hardware import IOMMUS, PARTS, Hardware
from vmlib.kernels import KERNELS, image
from vmlib.machine import Machine, check_qemu
from vmlib.ports import Output

BROKEN = 125
"""Exit status when it is the machine that failed, not the command."""

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """The command's exit status, or BROKEN or INTERRUPTED."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    hardware = Hardware(
        iommu=options.iommu,
        cpu=options.cpu,
        cpus=options.cpus,
        memory=options.memory,
        huge_pages=options.hugepages,
        edu=options.edu,
        parts=tuple(PARTS) if options.part is None else [part for part in options.part if part],
        devices=options.device,
        append=options.append,
    )
    try:
        check_qemu()
        machine = Machine(image(options.kernel), hardware, timeout=options.timeout, verbose=options.verbose)
        outputs = {"stdout": _to(sys.stdout.fileno()), "stderr": _to(sys.stderr.fileno())}
        if options.verbose:
            outputs["console"] = outputs["stderr"]
        status = machine.run(options.command, outputs)
    except VmError as error:
        print(f"vm: {error}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        return INTERRUPTED
    if options.dmesg:
        print(machine.log, file=sys.stderr)
    elif status:
        print(f"vm: exit status {status}; the guest's kernel log is {machine.keep_log()}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/vm",
        usage="tools/vm [option...] -- COMMAND [ARGUMENT...]",
        description="Run COMMAND as root in a virtual machine with this checkout and its .venv: a real kernel, an "
        "IOMMU, edu devices. Nothing it writes reaches the host. Its output and exit status come back; "
        f"{BROKEN} means that the machine failed.",
        epilog="tools/vm --kernel debian-6.12 --iommu amd -- virtiomem demo --device auto",
    )
    parser.add_argument("--kernel", choices=KERNELS, default="stock", help="default: of this machine's own suite")
    parser.add_argument("--iommu", choices=IOMMUS, default="intel", help="default: %(default)s")
    parser.add_argument("--cpu", default="max", help="EPYC,+svm for a guest in the guest (default: %(default)s)")
    parser.add_argument("--memory", type=int, default=1536, metavar="MIB", help="default: %(default)s")
    parser.add_argument("--cpus", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--hugepages", type=int, default=256, metavar="N", help="of 2 MiB each (default: %(default)s)")
    parser.add_argument("--edu", type=int, default=3, metavar="N", help="edu devices (default: %(default)s)")
    parser.add_argument(
        "--part",
        choices=[*PARTS, ""],
        action="append",
        metavar="PART",
        help=f"hardware beside edu devices: {', '.join(PARTS)}, or '' for none (default: all)",
    )
    parser.add_argument("--device", action="append", default=[], metavar="DEVICE", help="a further device, as QEMU's")
    parser.add_argument("--append", default="", metavar="ARGUMENTS", help="further arguments of the kernel")
    parser.add_argument("--timeout", type=float, default=300, metavar="SECONDS", help="default: %(default)s")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the guest's console")
    parser.add_argument("--dmesg", action="store_true", help="print the guest's kernel log at the end")
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="what to run in the guest")
    return parser


def _to(fd: int) -> Output:
    def write(data: bytes) -> None:
        # Who reads no more, as head does, does not stop the command.
        with suppress(BrokenPipeError), open(fd, "wb", buffering=0, closefd=False) as file:
            while data:
                data = data[file.write(data) :]

    return write
