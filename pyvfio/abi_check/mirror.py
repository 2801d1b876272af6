"""What a ctypes mirror says."""

import ctypes
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from pyvfio.abi_check.errors import AbiCheckError
from pyvfio.abi_check.facts import Facts, Layout, Place, aggregate_type, array_type, integer_type, number

_CONSTANT: Final = re.compile(r"_*[A-Z][A-Z0-9][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Mirror:
    """A Python module that mirrors a header, or the part of it whose names start with one of prefixes.

    complete: the header's other names are missing from the module, not left out on purpose.
    """

    header: str
    module: str
    prefixes: tuple[str, ...] = ("",)
    complete: bool = True

    def facts(self) -> Facts:
        """Raises AbiCheckError if the module cannot be imported."""
        try:
            members = vars(importlib.import_module(self.module))
        except ImportError as error:
            raise AbiCheckError(f"the mirror {self.module} cannot be imported: {error}") from error
        return Facts(
            structs={name: _layout(member) for name, member in members.items() if _is_struct(member)},
            numbers={
                name: number(member)
                for name, member in members.items()
                if isinstance(member, int | str) and name.startswith(self.prefixes) and _CONSTANT.fullmatch(name)
            },
        )


MIRRORS: Final = (
    Mirror("linux/vfio.h", "pyvfio.abi.vfio"),
    Mirror("linux/iommufd.h", "pyvfio.abi.iommufd"),
    Mirror("linux/mman.h", "pyvfio.abi.mman", prefixes=("PROT_", "MAP_", "MADV_"), complete=False),
    Mirror("linux/memfd.h", "pyvfio.abi.mman", prefixes=("MFD_",), complete=False),
    Mirror("linux/falloc.h", "pyvfio.abi.mman", prefixes=("FALLOC_",), complete=False),
    Mirror("linux/pci_regs.h", "pyvfio.abi.pci_regs", complete=False),
)


def _is_struct(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, ctypes.Structure) and hasattr(member, "_fields_")


def _layout(struct: type[ctypes.Structure]) -> Layout:
    return Layout(ctypes.sizeof(struct), dict(_fields(struct)))


def _fields(struct: type, base: int = 0) -> Iterator[tuple[str, Place]]:
    for name, ctype in cast("list[tuple[str, type]]", vars(struct)["_fields_"]):
        offset = base + getattr(struct, name).offset
        if name in getattr(struct, "_anonymous_", ()):
            yield from _fields(ctype, offset)
        else:
            yield name, Place(offset, _type(ctype()))


def _type(value: object) -> str:
    match value:
        case ctypes.Array():
            return array_type(_type(value._type_()), len(value))
        case ctypes.Structure() | ctypes.Union():
            return aggregate_type(ctypes.sizeof(value))
        case ctypes._SimpleCData():
            return integer_type(ctypes.sizeof(value), signed=type(value)(-1).value < 0)
    raise AssertionError(f"{type(value)} has no counterpart in a uapi header")
