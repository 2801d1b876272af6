"""How the house is built, as data: floors, faces, the circles that stay, and the exceptions with their reasons.

A line that is not needed any more is an error, as is a file that no line places. Every import counts, one for the type
checker too: what a file names is what its reader has to know of. We read the files ourselves, with Python's own parser,
once for all rules: import-linter, a good tool, has floors, but no faces, private members or names of headers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class House:
    """A package, and the rooms in it: packages and single files, by floors from the top.

    A room imports from rooms on lower floors only; rooms on one floor do not know each other. So no circle leads
    through two rooms. Every file of the package is in a room that stands here; the package's face is above them all.
    """

    name: str
    floors: tuple[str, ...]


HOUSES = (
    House(
        "virtiomem",
        (
            "__main__",
            "cli",
            "manager",
            "stand_in vhost_user passthrough",
            "draw trace",
            "control",
            "mapping spaces",
            "planner persistence",
            "device",
            "discard",
            "serving",
            "abi runs",
        ),
    ),
    House(
        "pyvfio",
        (
            "__main__",
            "cli testing",
            "host",
            "drivers model_server",
            "container iommufd vfio_user",
            "device",
            "dma noiommu reserved",
            "memory sysfs",
            "faults sim",
            "kernel",
            "abi_check commandline explain resource unix_socket",
            "abi deferred errors lifetime records units version",
            "texts",
        ),
    ),
    # As the kernel's own tree: drivers/vfio stands on drivers/iommu/iommufd, and both on what the machine is.
    House(
        "pyvfio.sim",
        (
            "kernel",
            "vfio",
            "iommufd procfs",
            "machine",
            "dma_owners",
            "sysfs",
            "devices mm",
            "capabilities iommu process rbtree",
        ),
    ),
)

# What is on the left imports from what is on the right, and never the other way round.
USES = {"virtiomem": "pyvfio"}

# Rooms that stand low and yet are not for all that stands above them: who imports them, and nobody else.
USED_ONLY_BY = {
    "pyvfio.sim": ("pyvfio.testing", "pyvfio.model_server", "virtiomem.cli", "virtiomem.trace"),
    "pyvfio.faults": ("pyvfio.testing",),
    "pyvfio.drivers": ("pyvfio.testing", "virtiomem.stand_in"),
    "pyvfio.host": ("pyvfio.cli", "virtiomem.cli", "virtiomem.planner", "virtiomem.stand_in"),
    "pyvfio.noiommu": ("pyvfio.host", "pyvfio.iommufd"),
    "pyvfio.abi_check": ("pyvfio.cli",),
    "pyvfio.commandline": ("pyvfio.cli", "virtiomem.cli"),
    "pyvfio.cli": ("pyvfio.__main__",),
    "pyvfio.testing": (),
}

# From outside a room its face is imported (`from pyvfio.container import Container`), and names of its __all__ only;
# from inside, the file that has the name, and never the face. In these every module is public by itself:
PUBLIC_BY_MODULE = (
    "pyvfio.abi",  # a module is a header of the kernel
    "pyvfio.drivers",  # a module is a driver
    "pyvfio.vfio_user.abi",
    "pyvfio.sim.devices",  # a module is a device to copy from
    "virtiomem.vhost_user.abi",
)
# A package in a room that has a face of its own.
FACES_IN_ROOMS = ("pyvfio.host.doctor", "pyvfio.host.inspect")
# Who is held to that beside the two packages. tests/ is not: a test of an inside imports it.
USERS = ("benchmarks", "examples", "tools")


@dataclass(frozen=True, slots=True)
class Circle:
    """Files of one room that lead back to each other by their imports: how many at most, and why they may."""

    room: str
    files: int
    why: str


CIRCLES = (Circle("pyvfio.iommufd", 11, "an object and what made it name each other, as the kernel's objects do"),)

# Where the names of the kernel's headers are.
HEADERS = ("pyvfio/abi", "pyvfio/vfio_user/abi.py", "virtiomem/abi.py", "virtiomem/vhost_user/abi")
# Names in capitals that are in none of these headers and in no code of ours, by where they come from.
OTHER_NAMES = {
    "linux/capability.h": "CAP_IPC_LOCK CAP_SYS_ADMIN CAP_SYS_RAWIO CAP_SYS_RESOURCE",
    "Kconfig": (
        "CONFIG_AIO CONFIG_AMD_IOMMU CONFIG_HUGETLBFS CONFIG_INTEL_IOMMU CONFIG_INTEL_IOMMU_DEFAULT_ON "
        "CONFIG_IOMMUFD_TEST CONFIG_IOMMUFD_VFIO_CONTAINER CONFIG_VFIO CONFIG_VFIO_CONTAINER CONFIG_VFIO_DEVICE_CDEV "
        "CONFIG_VFIO_GROUP CONFIG_VFIO_IOMMU_TYPE1 CONFIG_VFIO_NOIOMMU CONFIG_VFIO_PCI CONFIG_VFIO_PCI_VGA "
        "CONFIG_NODES_SHIFT"
    ),
    "asm-generic/resource.h": "RLIMIT_MEMLOCK",
    "linux/virtio_config.h, status bits": "DEVICE_NEEDS_RESET",
    "linux/virtio_iommu.h, status": (
        "VIRTIO_IOMMU_S_DEVERR VIRTIO_IOMMU_S_INVAL VIRTIO_IOMMU_S_NOENT VIRTIO_IOMMU_S_NOMEM VIRTIO_IOMMU_S_RANGE"
    ),
    "drm/drm_fourcc.h": "DRM_FORMAT_*",
    "drm/drm_mode.h, and the kernel's drm_plane.h": "DRM_PLANE_TYPE_*",
    "linux/version.h": "LINUX_VERSION_CODE",
    "systemd's hwdb": "ID_MODEL_FROM_DATABASE ID_VENDOR_FROM_DATABASE",
    "QEMU's messages": "VFIO_MAP_DMA",
    "sysconf(3)": "SC_PAGE_SIZE",
    "sd_listen_fds(3)": "SD_LISTEN_FDS_START",
    "net/scm.h": "SCM_MAX_FD",
    "linux/kcmp.h": "KCMP_FILE",
    "linux/fcntl.h": "F_DUPFD_QUERY",
    "the environment": (
        "COMP_LINE COMP_POINT COMP_WORDBREAKS LISTEN_FDNAMES LISTEN_FDS LISTEN_PID NO_COLOR NOTIFY_SOCKET "
        "STATE_DIRECTORY VIRTIOMEM_OPTIONS XDG_RUNTIME_DIR XDG_STATE_HOME"
    ),
    "abi_check's example of an enumeration's end": "NAMES_NR NAMES_NUM_IRQS",
}

# Members with an underscore that are not private, or that we need of a library that has no other: file, member, why.
# "*" for every file.
NOT_PRIVATE = (
    ("*", "_IO", "the kernel's own macro, in pyvfio/abi/types.py"),
    ("pyvfio/abi/vfio/__init__.py", "__VFIO_RESERVED_TYPE1_NESTING_IOMMU", "the header's own name"),
    ("pyvfio/abi_check/mirror.py", "_SimpleCData", "ctypes gives no other way to ask whether a type is a number"),
    ("pyvfio/abi_check/mirror.py", "_anonymous_", "ctypes' own name, documented"),
    ("pyvfio/abi_check/mirror.py", "_fields_", "ctypes' own name, documented"),
    ("pyvfio/abi_check/mirror.py", "_type_", "ctypes' own name, documented"),
    ("pyvfio/commandline/completion.py", "_SubParsersAction", "argparse gives no other way to ask for subcommands"),
    ("pyvfio/commandline/completion.py", "_actions", "argparse gives no other way to ask for options"),
    ("pyvfio/commandline/completion.py", "_choices_actions", "argparse gives no other way to ask for help texts"),
    ("pyvfio/lifetime.py", "_getframe", "Python gives no other way to see who was interrupted that costs no import"),
    ("pyvfio/sim/process/user.py", "_b_needsfree_", "ctypes says nowhere else whether a buffer is its own"),
)

# Not counting a package's face.
LINES_OF_A_MODULE = 400
FILES_OF_A_PACKAGE = 20

# This file, as messages name it.
PATH = "tools/houselib/table.py"


def line_of(word: str) -> int:
    """Where word stands in this file; 1 if it is put together from parts."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if word in line), 1)
