"""A first file system: busybox, the modules in the order they load, init, and small files."""

from __future__ import annotations

import lzma
import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmlib.errors import Unavailable

MODULES = (
    "virtio_pci",
    "virtio_console",
    "9pnet_virtio",
    "9p",
    "overlay",
    "virtio_iommu",
    "vfio",
    "vfio_iommu_type1",
    "vfio_pci",
    "virtio_net",
    "mtty",
    "mdpy",
    "mbochs",
)
DIRECTORIES = ("bin", "dev", "lib", "mnt", "mnt/host", "mnt/rw", "mnt/root", "modules", "proc", "sys", "tmp")


def build(busybox: Path, modules: Path, init: Path, files: Mapping[str, str], wanted: Sequence[str] = MODULES) -> bytes:
    """The archive, uncompressed: it is not worth the time. files: further small files, by name. wanted: modules."""
    archive = _Archive()
    for name in DIRECTORIES:
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive.add("init", stat.S_IFREG | 0o755, init.read_bytes())
    loaded = ordered_modules(modules, wanted)
    for name, content in loaded.items():
        archive.add(f"modules/{name}.ko", stat.S_IFREG | 0o644, content)
    archive.add("modules/order", stat.S_IFREG | 0o644, "".join(f"{name}\n" for name in loaded).encode())
    for name, text in files.items():
        archive.add(name, stat.S_IFREG | 0o644, text.encode())
    return archive.finish()


def ordered_modules(directory: Path, wanted: Sequence[str] = MODULES) -> dict[str, bytes]:
    """wanted and what they depend on, dependencies first. What the kernel has built in is not there to load."""
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in directory.rglob("*.ko*")}
    loaded: dict[str, bytes] = {}

    def load(name: str) -> None:
        if name in loaded or name not in files:
            return
        content = _decompressed(files[name])
        for needed in _depends(content):
            load(needed)
        loaded[name] = content

    for name in wanted:
        load(name)
    return loaded


def _depends(module: bytes) -> list[str]:
    """Of the module's own information: "depends=virtio,virtio_ring"."""
    match = re.search(rb"(?:^|\0)depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in match[1].decode().split(",") if name] if match else []


def _decompressed(path: Path) -> bytes:
    match path.suffix:
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".zst":
            try:
                return subprocess.run(["zstd", "-dcq", path], capture_output=True, check=True).stdout
            except FileNotFoundError:
                raise Unavailable("this kernel's modules need zstd: apt-get install zstd") from None
        case _:
            return path.read_bytes()


class _Archive:
    """cpio, "newc". Source: Documentation/driver-api/early-userspace/buffer-format.rst in Linux."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inodes = 0

    def add(self, name: str, mode: int, content: bytes = b"") -> None:
        self._inodes += 1
        encoded = name.encode() + b"\0"
        numbers = (self._inodes, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % number for number in numbers) + encoded
        self._parts += [header, bytes(-len(header) % 4), content, bytes(-len(content) % 4)]

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)
