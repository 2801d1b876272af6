"""A QEMU newer than the machine's own, unpacked into the cache and never installed.

Debian's backports carry it. It runs with the libraries of its own suite, so it works on an older system.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

from vmlib.errors import Unavailable
from vmlib.packages import Suite, cache_directory, locked
from vmlib.progress import Progress

SUITES = ("trixie-backports", "trixie")
PROGRAM = "qemu-system-x86_64"
DEVICES = ("vfio-user-pci", "vhost-user-test-device-pci")
"""What it is there for; an older QEMU has not both."""


def recent_qemu() -> Path:
    """The program, to be started like any other; fetched first if it is not in the cache (seconds, 40 MB).

    Raises Unavailable without apt, or if the suites have no QEMU that is recent enough.
    """
    directory = cache_directory() / "qemu"
    program = directory / PROGRAM
    with locked(directory):
        if not program.exists():
            root = directory / "root"
            shutil.rmtree(root, ignore_errors=True)
            with Progress().during(f"fetching QEMU of {SUITES[0]}"):
                Suite(*SUITES).unpack_with_dependencies(["qemu-system-x86"], root)
            started = directory / "starting"
            _write_wrapper(started, root)
            _check(started)
            started.rename(program)
    return program


def _write_wrapper(wrapper: Path, root: Path) -> None:
    loader = _one(root, "usr/lib/*/ld-linux-*.so.*")
    modules = _one(root, "usr/lib/*/qemu")
    libraries = [loader.parent, *sorted(path for path in loader.parent.iterdir() if path.name == "pulseaudio")]
    firmware = [root / "usr/share/qemu", root / "usr/share/seabios", root / "usr/lib/ipxe/qemu"]
    command = [str(loader), "--argv0", PROGRAM, "--library-path", ":".join(map(str, libraries))]
    command.append(str(root / "usr/bin" / PROGRAM))
    for place in firmware:
        command += ["-L", str(place)]
    wrapper.write_text(
        f'#!/bin/sh\nexport QEMU_MODULE_DIR={shlex.quote(str(modules))}\nexec {shlex.join(command)} "$@"\n'
    )
    wrapper.chmod(0o755)


def _one(root: Path, pattern: str) -> Path:
    found = sorted(root.glob(pattern))
    if not found:
        raise Unavailable(f"the QEMU of {SUITES[0]} has no {pattern}")
    return found[0]


def _check(program: Path) -> None:
    for device in DEVICES:
        # Listing all devices would load every module, and those of an installed QEMU would not fit.
        if subprocess.run([program, "-device", f"{device},help"], capture_output=True, check=False).returncode:
            raise Unavailable(f"the QEMU of {SUITES[0]} has no {device}")
