"""Which kernels there are, as data, and how each comes into the cache."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from vmlib.packages import Suite, cache_directory, locked, own_suite, progress


@dataclass(frozen=True, slots=True)
class Kernel:
    """suite None: this machine's own. version: a prefix; empty for the one the suite installs by default."""

    name: str
    suite: str | None
    version: str = ""


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("stock", None),
        Kernel("debian-6.1", "bookworm"),
        Kernel("debian-6.12", "trixie"),
        Kernel("debian-6.18", "trixie-backports", "6.18"),
        Kernel("debian-7", "trixie-backports"),
    )
}

_METAPACKAGES = ("linux-image-amd64", "linux-image-generic")
_UNWANTED = re.compile(r"-(cloud|rt|unsigned|dbg)\b|unsigned")


@dataclass(frozen=True, slots=True)
class Image:
    """A kernel in the cache: the image to boot and the directory its modules are in."""

    name: str
    vmlinuz: Path
    modules: Path


def image(name: str) -> Image:
    """The kernel called name in the table, fetched first if the cache has it not. Raises KeyError, Unavailable."""
    kernel = KERNELS[name]
    directory = cache_directory() / "kernels" / name
    complete = directory / ".complete"
    with locked(directory.parent):
        if not complete.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
            _fetch(kernel, directory)
            complete.touch()
    return _find(name, directory)


def busybox() -> Path:
    """A static busybox for the machine's first process."""
    directory = cache_directory() / "busybox"
    with locked(directory.parent):
        if not (found := _busybox(directory)):
            progress("fetching busybox")
            Suite(own_suite()).unpack(["busybox-static"], directory)
            found = _busybox(directory)
    assert found is not None
    return found


def _busybox(directory: Path) -> Path | None:
    places = (directory / "bin/busybox", directory / "usr/bin/busybox")
    return next((place for place in places if place.exists()), None)


def _fetch(kernel: Kernel, directory: Path) -> None:
    suite = Suite(kernel.suite or own_suite())
    release = _release(suite, kernel.version)
    wanted = [f"linux-image-{release}", f"linux-modules-{release}", f"linux-modules-extra-{release}"]
    wanted.append(f"linux-binary-{release}")
    known = suite.packages("linux-")
    progress(f"fetching kernel {kernel.name}: {release} of {suite.name}")
    suite.unpack([package for package in wanted if package in known], directory)


def _release(suite: Suite, version: str) -> str:
    """The newest kernel release of the suite with this version, or the one its metapackage installs."""
    if not version:
        for metapackage in _METAPACKAGES:
            if metapackage in suite.packages(metapackage):
                images = [name for name in suite.depends(metapackage) if name.startswith("linux-image-")]
                return images[0].removeprefix("linux-image-")
    names = [name for name in suite.packages(f"linux-image-{version}") if not _UNWANTED.search(name)]
    releases = [name.removeprefix("linux-image-") for name in names if name.endswith(("amd64", "generic"))]
    return max(releases, key=lambda release: [int(number) for number in re.findall(r"\d+", release)])


def _find(name: str, directory: Path) -> Image:
    candidates = [*directory.glob("boot/vmlinuz-*"), *directory.glob("usr/lib/modules/*/vmlinuz")]
    modules = [*directory.glob("lib/modules/*"), *directory.glob("usr/lib/modules/*")]
    return Image(name, candidates[0], modules[0])
