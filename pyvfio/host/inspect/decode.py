"""Config space in words, much as lspci writes it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator

from pyvfio.abi import pci_regs
from pyvfio.device import (
    ConfigSpace,
    Msi,
    Msix,
    PciCapability,
    PciCommand,
    PciExpress,
    PciStatus,
    PowerManagement,
    Sriov,
)

_TYPES = {
    0: "endpoint",
    1: "legacy endpoint",
    4: "root port",
    5: "upstream port",
    6: "downstream port",
    7: "bridge to PCI",
    8: "bridge from PCI",
    9: "root complex integrated endpoint",
    10: "event collector",
}
_SPEEDS = {1: "2.5", 2: "5", 3: "8", 4: "16", 5: "32", 6: "64"}


def header(config: ConfigSpace) -> Iterator[tuple[str, str]]:
    """The names of the registers that every function has, and their values in words."""
    yield "id", f"{config.vendor_id:04x}:{config.device_id:04x} revision {config.revision_id:02x}"
    yield "class", f"{config.class_device:04x}{config.class_prog:02x}, header type {config.header_type & 0x7F}"
    if not config.header_type & 0x7F:
        yield "subsystem", f"{config.subsystem_vendor_id:04x}:{config.subsystem_id:04x}"
    yield "command", _signs(config.command, PciCommand)
    yield "status", _signs(config.status, PciStatus)
    pin = config.interrupt_pin
    if pin:
        yield "interrupt", f"pin {'?ABCD'[pin] if pin < 5 else pin}"


def capabilities(config: ConfigSpace) -> Iterator[PciCapability]:
    """The capabilities of both lists. Raises VfioError if a list is damaged, or if this user may not read all of it."""
    yield from config.capabilities()
    yield from config.extended_capabilities()


def in_words(capability: PciCapability) -> str:
    """What the registers of a capability say, as far as they have names here; "" if none has."""
    for kind, describe in _WORDS.items():
        if isinstance(capability, kind):
            return describe(capability)
    match capability.extended, capability.id:
        case True, pci_regs.PCI_EXT_CAP_ID_DSN:
            serial = capability.read_register(4, 32) | capability.read_register(8, 32) << 32
            return serial.to_bytes(8, "big").hex("-")
        case True, pci_regs.PCI_EXT_CAP_ID_ERR:
            return (
                f"uncorrectable {capability.read_register(4, 32):#x}, correctable {capability.read_register(16, 32):#x}"
            )
        case False, pci_regs.PCI_CAP_ID_VNDR:
            return f"{capability.read_register(2, 8)} bytes"
    return f"version {capability.version}" if capability.extended else ""


def _power(capability: PowerManagement) -> str:
    return f"D{capability.state} {_sign('NoSoftReset', capability.no_soft_reset)}"


def _msi(capability: Msi) -> str:
    signs = (("64bit", capability.is_64bit), ("Maskable", capability.can_mask))
    return f"{_sign('Enable', capability.enabled)} Count={1 << capability.vectors_log2} " + _all_signs(*signs)


def _msix(capability: Msix) -> str:
    signs = _all_signs(("Enable", capability.enabled), ("Masked", capability.masked))
    table = f"table BAR{capability.table_bar}+{capability.table_offset:#x}"
    return (
        f"{signs} Count={capability.vectors} {table} pending BAR{capability.pending_bar}+{capability.pending_offset:#x}"
    )


def _express(capability: PciExpress) -> str:
    kind = _TYPES.get(capability.type, f"type {capability.type}")
    flr = _sign("FunctionReset", capability.can_function_reset)
    sizes = f"MaxPayload={128 << capability.max_payload_code} MaxReadRequest={128 << capability.max_read_request_code}"
    link = (
        f"link {_SPEEDS.get(capability.link_speed, '?')} GT/s x{capability.link_width}" if capability.link_width else ""
    )
    return ", ".join(filter(None, (kind, f"{flr} {sizes}", link)))


def _sriov(capability: Sriov) -> str:
    return f"{_sign('Enable', capability.enabled)} VFs={capability.num_vfs} of {capability.total_vfs}"


def _signs(value: int, names: type[enum.IntFlag]) -> str:
    return _all_signs(*((flag.name or "", value & flag) for flag in names))


def _all_signs(*values: tuple[str, int]) -> str:
    return " ".join(_sign(name, value) for name, value in values)


def _sign(name: str, value: int) -> str:
    """A bit as lspci writes it: "Enable+" if it is set, else "Enable-"."""
    return f"{name}{'+' if value else '-'}"


_WORDS: dict[type[PciCapability], Callable[..., str]] = {
    PowerManagement: _power,
    Msi: _msi,
    Msix: _msix,
    PciExpress: _express,
    Sriov: _sriov,
}
