"""Which kernels there are, as data, and how each comes into the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from vmlib import build
from vmlib.packages import Suite, cache_directory, locked, newest, own_suite
from vmlib.progress import Progress


@dataclass(frozen=True, slots=True)
class Kernel:
    """suite None: this machine's own. version: a prefix; empty for the one the suite installs by default.

    features: what of VFIO it has, or of what tests need besides. iommus: the models it has a driver for. config:
    fragments in this directory, later ones over earlier ones: a kernel built with them from the newest source package
    of the suite.
    """

    name: str
    suite: str | None
    version: str = ""
    features: frozenset[str] = frozenset({"type1", "vga"})
    iommus: tuple[str, ...] = ("intel", "amd", "virtio")
    config: tuple[str, ...] = ()


_BUILT = frozenset({"iommufd", "cdev", "noiommu", "mdev", "iommufd-test", "nvme-disk"})

KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("stock", None),
        Kernel("debian-6.1", "bookworm", iommus=("intel", "amd")),
        Kernel("debian-6.12", "trixie"),
        Kernel("debian-6.18", "trixie-backports", "6.18"),
        Kernel("debian-7", "trixie-backports"),
        Kernel(
            "built",
            "trixie-backports",
            features=_BUILT | {"type1"},
            config=("built.config",),
        ),
        Kernel(
            "built-compat",
            "trixie-backports",
            features=_BUILT | {"compat"},
            config=("built.config", "built-compat.config"),
        ),
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


def image(name: str, progress: Progress | None = None) -> Image:
    """The kernel called name in the table; fetched or built first if it is not cached. Raises KeyError, Unavailable."""
    kernel = KERNELS[name]
    if not cached(name):
        if kernel.config:
            _build(kernel.suite, progress or Progress())
        else:
            _fetch(kernel, progress or Progress())
    return _find(kernel)


def cached(name: str) -> bool:
    """Whether image(name) answers at once."""
    return _complete(KERNELS[name]).exists()


def busybox(progress: Progress | None = None) -> Path:
    """A static busybox for the machine's first process."""
    directory = cache_directory() / "busybox"
    with locked(directory):
        if not (found := _busybox(directory)):
            with (progress or Progress()).during("fetching busybox"):
                Suite(own_suite()).unpack(["busybox-static"], directory)
            found = _busybox(directory)
    assert found is not None
    return found


def _busybox(directory: Path) -> Path | None:
    places = (directory / "bin/busybox", directory / "usr/bin/busybox")
    return next((place for place in places if place.exists()), None)


def _directory(kernel: Kernel) -> Path:
    """Where the cache has the kernel: for one that is built, a place of its own for every configuration."""
    name = kernel.name
    if kernel.config:
        digest = hashlib.sha256(f"{kernel.suite}\n{_configuration(kernel)}".encode())
        name += f"-{digest.hexdigest()[:12]}"
    return cache_directory() / "kernels" / name


def _complete(kernel: Kernel) -> Path:
    return _directory(kernel) / ".complete"


def _configuration(kernel: Kernel) -> str:
    return "".join((Path(__file__).parent / name).read_text() for name in kernel.config)


def _fetch(kernel: Kernel, progress: Progress) -> None:
    directory = _directory(kernel)
    with locked(directory, progress):
        if _complete(kernel).exists():
            return
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        suite = Suite(kernel.suite or own_suite())
        release = _release(suite, kernel.version)
        wanted = [f"linux-image-{release}", f"linux-modules-{release}", f"linux-modules-extra-{release}"]
        wanted.append(f"linux-binary-{release}")
        known = suite.packages("linux-")
        with progress.during(f"fetching kernel {kernel.name}: {release} of {suite.name}"):
            suite.unpack([package for package in wanted if package in known], directory)
        _complete(kernel).touch()


def _build(suite: str | None, progress: Progress) -> None:
    """Build all kernels of one source package that are missing: the second is little work after the first."""
    with locked(cache_directory() / "kernels/build", progress):
        missing = [row for row in KERNELS.values() if row.config and row.suite == suite and not cached(row.name)]
        if not missing:
            return
        with build.tree(suite or own_suite(), progress) as tree:
            for kernel in missing:
                directory = _directory(kernel)
                shutil.rmtree(directory, ignore_errors=True)
                directory.mkdir(parents=True)
                tree.build(kernel.name, _configuration(kernel), directory)
                _complete(kernel).touch()


def _release(suite: Suite, version: str) -> str:
    """The newest kernel release of the suite with this version, or the one its metapackage installs."""
    if not version:
        for metapackage in _METAPACKAGES:
            if metapackage in suite.packages(metapackage):
                images = [name for name in suite.depends(metapackage) if name.startswith("linux-image-")]
                return images[0].removeprefix("linux-image-")
    names = [name for name in suite.packages(f"linux-image-{version}") if not _UNWANTED.search(name)]
    releases = [name.removeprefix("linux-image-") for name in names if name.endswith(("amd64", "generic"))]
    return newest(releases)


def _find(kernel: Kernel) -> Image:
    directory = _directory(kernel)
    candidates = [*directory.glob("boot/vmlinuz-*"), *directory.glob("usr/lib/modules/*/vmlinuz")]
    modules = [*directory.glob("lib/modules/*"), *directory.glob("usr/lib/modules/*")]
    return Image(kernel.name, candidates[0], modules[0])
