"""What the host has from virtio devices, other than disks and network interfaces: file systems, memory."""

from __future__ import annotations

from collections.abc import Iterator

from pyvfio.host.guard.mounts import all_mounts
from pyvfio.kernel import Kernel, link_name, names_in, text_or_empty
from pyvfio.sysfs import PciDevice, VirtioDevice, virtio_devices
from pyvfio.texts import printable

_FILE_SYSTEMS = {"9pnet_virtio": "9p", "virtiofs": "virtiofs"}
_VIRTIOFS = "/sys/fs/virtiofs"


def virtio_uses(kernel: Kernel, device: PciDevice) -> Iterator[str]:
    """What the host has from the virtio devices that are made of a function, as a phrase for each reason.

    Source: net/9p/trans_virtio.c, fs/fuse/virtio_fs.c, drivers/virtio/virtio_mem.c.
    """
    for virtio in virtio_devices(kernel, device.address):
        if virtio.driver in _FILE_SYSTEMS:
            yield from _of_file_system(kernel, virtio, _FILE_SYSTEMS[virtio.driver])
        elif virtio.driver == "virtio_mem" and "System RAM (virtio_mem)" in text_or_empty(kernel, "/proc/iomem"):
            yield "memory of this host is plugged by a virtio-mem device, perhaps by this one"


def _of_file_system(kernel: Kernel, virtio: VirtioDevice, kind: str) -> Iterator[str]:
    """Where the file system of a virtio device is mounted. Unmounting it may wait for ever once the device is gone."""
    # Nobody uses the module of the file system: none of its kind is mounted.
    if text_or_empty(kernel, f"/sys/module/{kind}/refcnt") == "0":
        return
    tag = _tag(kernel, virtio)
    own, elsewhere = all_mounts(kernel)
    for mounts in (own, elsewhere):
        mounted = dict.fromkeys(
            each.where for each in mounts if each.kind == kind and (tag is None or tag in each.sources)
        )
        if mounted:
            perhaps = "" if tag is not None else "perhaps "
            yield f"the {kind} file system {perhaps}on it is mounted on {', '.join(mounted)}"
            return
    name = "" if tag is None else f" {printable(tag)}"
    yield f"its {kind} file system{name} may be in use: no list of mounts shows one that is below another or detached"


def _tag(kernel: Kernel, virtio: VirtioDevice) -> str | None:
    """The name by which the file system of a virtio device is mounted; None before Linux 6.9 for virtiofs."""
    for number in names_in(kernel, _VIRTIOFS):
        if link_name(kernel, f"{_VIRTIOFS}/{number}/device") == virtio.name:
            return text_or_empty(kernel, f"{_VIRTIOFS}/{number}/tag") or None
    # 9p's ends in a zero byte.
    return text_or_empty(kernel, f"{virtio.place}/mount_tag").rstrip("\0") or None
