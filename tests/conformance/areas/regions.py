"""Regions: info, reads and writes, mmap. Source: vfio_pci_ioctl_get_region_info, vfio_pci_rw, vfio_pci_core_mmap."""

from errno import EFAULT, EINVAL, EIO

from pyvfio.abi import mman, pci_regs, vfio
from tests.conformance.areas.setups import DEVICE
from tests.conformance.bench import PAGE
from tests.conformance.calls.device import get_region_info, map_region, read_region, write_region
from tests.conformance.case import Case, ok, since

BAR0, ROM = vfio.VFIO_PCI_BAR0_REGION_INDEX, vfio.VFIO_PCI_ROM_REGION_INDEX
CONFIG, VGA = vfio.VFIO_PCI_CONFIG_REGION_INDEX, vfio.VFIO_PCI_VGA_REGION_INDEX
BAR_SIZE = 1 << 20

_COMMAND = pci_regs.PCI_COMMAND
_NO_DECODING = [*DEVICE, write_region(region=CONFIG, offset=_COMMAND, data=b"\0\0")]
_MASTER = [*DEVICE, write_region(region=CONFIG, offset=_COMMAND, data=b"\x06\0")]

CASES = [
    Case(
        "BAR 0",
        DEVICE,
        get_region_info(index=BAR0),
        ok(argsz=32, flags=7, index=0, cap_offset=0xAA, size=BAR_SIZE, offset=0),
    ),
    *(
        Case(
            f"BAR {index}, which it has not",
            DEVICE,
            get_region_info(index=index),
            ok(flags=0, size=0, offset=index << 40),
        )
        for index in range(1, 6)
    ),
    Case("the ROM, which it has not", DEVICE, get_region_info(index=ROM), ok(flags=0, size=0, offset=6 << 40)),
    Case("config space", DEVICE, get_region_info(index=CONFIG), ok(flags=3, size=256, offset=7 << 40)),
    Case("VGA, which it is not", DEVICE, get_region_info(index=VGA), EINVAL),
    Case("region 9", DEVICE, get_region_info(index=9), EINVAL),
    Case("region -1", DEVICE, get_region_info(index=0xFFFF_FFFF), EINVAL),
    Case("argsz one byte short", DEVICE, get_region_info(index=BAR0, argsz=31), EINVAL),
    Case("a larger argsz", DEVICE, get_region_info(index=BAR0, argsz=100), ok(argsz=100, size=BAR_SIZE)),
    Case("struct one byte short", DEVICE, get_region_info(index=BAR0, reach=31), EFAULT),
    Case("no struct", DEVICE, get_region_info(index=BAR0, reach=0), EFAULT),
    Case("read the vendor", DEVICE, read_region(region=CONFIG, size=4), ok(data="3412e811")),
    Case("read one byte", DEVICE, read_region(region=CONFIG, offset=1, size=1), ok(data="12")),
    Case("read the command register", DEVICE, read_region(region=CONFIG, offset=_COMMAND, size=2), ok(data="0301")),
    Case("read across registers", DEVICE, read_region(region=CONFIG, offset=1, size=3), ok(data="12e811")),
    Case("read all of config space", DEVICE, read_region(region=CONFIG, size=256, shown=False), ok(value=256)),
    Case("read beyond config space", DEVICE, read_region(region=CONFIG, offset=256, size=4), EFAULT),
    Case("read across the end of config space", DEVICE, read_region(region=CONFIG, offset=254, size=4), EFAULT),
    Case(
        "write and read eight bytes of a register",
        [*DEVICE, write_region(region=0, offset=0x80, data=bytes(range(1, 9)))],
        read_region(region=0, offset=0x80, size=8),
        # An edu takes no access to the upper half alone, and reads as ones there: 6.1 makes two.
        since({(6, 1): ok(data="01020304ffffffff"), (6, 12): ok(data="0102030405060708")}),
    ),
    Case("read nothing of config space", DEVICE, read_region(region=CONFIG, size=0), ok(value=0)),
    Case(
        "write the command register",
        DEVICE,
        write_region(region=CONFIG, offset=_COMMAND, data=b"\x06\0"),
        ok(value=2),
        after=[(read_region(region=CONFIG, offset=_COMMAND, size=2), ok(data="0600"))],
    ),
    Case(
        "write the vendor",
        DEVICE,
        write_region(region=CONFIG, data=b"\xff\xff"),
        ok(value=2),
        after=[(read_region(region=CONFIG, size=4), ok(data="3412e811"))],
    ),
    Case("write beyond config space", DEVICE, write_region(region=CONFIG, offset=256, data=b"\0"), EFAULT),
    Case(
        "write the interrupt line",
        DEVICE,
        write_region(region=CONFIG, offset=0x3C, data=b"\x55"),
        ok(value=1),
        after=[(read_region(region=CONFIG, offset=0x3C, size=1), ok(data="55"))],
    ),
    Case(
        "write the interrupt pin",
        DEVICE,
        write_region(region=CONFIG, offset=0x3D, data=b"\x04"),
        ok(value=1),
        after=[(read_region(region=CONFIG, offset=0x3D, size=1), ok(data="01"))],
    ),
    Case(
        "size BAR 0",
        DEVICE,
        write_region(region=CONFIG, offset=0x10, data=b"\xff\xff\xff\xff"),
        ok(value=4),
        after=[(read_region(region=CONFIG, offset=0x10, size=4), ok(data="0000f0ff"))],
    ),
    Case(
        "size BAR 1, which it has not",
        DEVICE,
        write_region(region=CONFIG, offset=0x14, data=b"\xff\xff\xff\xff"),
        ok(value=4),
        after=[(read_region(region=CONFIG, offset=0x14, size=4), ok(data="00000000"))],
    ),
    Case("read a register", DEVICE, read_region(region=BAR0, size=4), ok(data="ed000001")),
    Case(
        "write and read a register",
        [*DEVICE, write_region(region=BAR0, offset=4, data=b"\x78\x56\x34\x12")],
        read_region(region=BAR0, offset=4, size=4),
        ok(data="87a9cbed"),
    ),
    Case("read beyond BAR 0", DEVICE, read_region(region=BAR0, offset=BAR_SIZE), EINVAL),
    Case("read far beyond BAR 0", DEVICE, read_region(region=BAR0, offset=1 << 32), EINVAL),
    Case("read across the end of BAR 0", DEVICE, read_region(region=BAR0, offset=BAR_SIZE - 4, size=8), ok(value=4)),
    Case("write beyond BAR 0", DEVICE, write_region(region=BAR0, offset=BAR_SIZE, data=bytes(4)), EINVAL),
    Case("read BAR 1, which it has not", DEVICE, read_region(region=1), EINVAL),
    Case("read the ROM, which it has not", DEVICE, read_region(region=ROM), EINVAL),
    Case("write the ROM", DEVICE, write_region(region=ROM, data=bytes(4)), EINVAL),
    Case("read VGA, which it is not", DEVICE, read_region(region=VGA), EINVAL),
    Case("read region 9", DEVICE, read_region(region=9), EINVAL),
    Case("registers without decoding", _NO_DECODING, read_region(region=BAR0), EIO),
    Case("write registers without decoding", _NO_DECODING, write_region(region=BAR0, data=bytes(4)), EIO),
    Case("beyond BAR 0 without decoding", _NO_DECODING, read_region(region=BAR0, offset=BAR_SIZE), EINVAL),
    Case("config space without decoding", _NO_DECODING, read_region(region=CONFIG), ok(data="3412e811")),
    Case("mmap", DEVICE, map_region(), ok()),
    Case("mmap all of BAR 0", DEVICE, map_region(size=BAR_SIZE), ok()),
    Case("mmap read-only", DEVICE, map_region(protection=mman.PROT_READ), ok()),
    Case("mmap the last page", DEVICE, map_region(offset=BAR_SIZE - PAGE), ok()),
    Case("mmap beyond the end", DEVICE, map_region(offset=BAR_SIZE), EINVAL),
    Case("mmap across the end", DEVICE, map_region(offset=BAR_SIZE - PAGE, size=2 * PAGE), EINVAL),
    Case("mmap more than BAR 0", DEVICE, map_region(size=BAR_SIZE + PAGE), EINVAL),
    Case("mmap private", DEVICE, map_region(flags=mman.MAP_PRIVATE), EINVAL),
    Case("mmap private, read-only", DEVICE, map_region(flags=mman.MAP_PRIVATE, protection=mman.PROT_READ), EINVAL),
    Case("mmap BAR 1, which it has not", DEVICE, map_region(region=1), EINVAL),
    Case("mmap the ROM", DEVICE, map_region(region=ROM), EINVAL),
    Case("mmap config space", DEVICE, map_region(region=CONFIG), EINVAL),
    Case("mmap region 9", DEVICE, map_region(region=9), EINVAL),
    Case("mmap an unaligned offset", DEVICE, map_region(offset=1), EINVAL),
    Case("mmap nothing", DEVICE, map_region(size=0), EINVAL),
    Case("mmap without decoding", _NO_DECODING, map_region(), ok()),
    Case("mmap with bus mastering", _MASTER, map_region(), ok()),
]
