"""C types as annotations: a mirrored struct reads like the header, and type checkers see plain ints.

64-bit Linux with asm-generic ioctl numbers: x86-64, arm64, riscv64, s390x, loongarch64.
"""

import ctypes
import inspect
import types
from typing import Annotated, Final, TypeVar, cast, get_args, get_origin

u8 = Annotated[int, ctypes.c_uint8]
u16 = Annotated[int, ctypes.c_uint16]
u32 = Annotated[int, ctypes.c_uint32]
u64 = Annotated[int, ctypes.c_uint64]
s32 = Annotated[int, ctypes.c_int32]

pointer = Annotated[int, ctypes.c_size_t]
"""An address of this process, as an int: 0 for NULL."""

Element = TypeVar("Element", bound="ctypes._CData")

FlexibleArray = Annotated[ctypes.Array[Element], 0]
"""The header's `element name[]`, of no size; `element name[n]` is Annotated[ctypes.Array[element], n]."""

_OVERLAY: Final = "overlay"
Field = TypeVar("Field")
Overlay = Annotated[Field, _OVERLAY]
"""In one anonymous union with the field before it."""

S = TypeVar("S", bound="ctypes.Structure | ctypes.Union")


def struct(declaration: type[S]) -> type[S]:
    """Class decorator: lay the annotated fields out in order, as a C compiler does.

    Instances have these attributes and no others: a misspelt field is an AttributeError. They are copied with
    from_buffer_copy, not with copy.copy.
    """
    places: list[list[tuple[str, type]]] = []
    for name, annotation in inspect.get_annotations(declaration).items():
        ctype, is_overlay = _ctype(annotation)
        field = (_unmangled(declaration, name), ctype)
        if is_overlay:
            places[-1].append(field)
        else:
            places.append([field])
    fields = [place[0] if len(place) == 1 else _anonymous_union(place) for place in places]
    anonymous = [field[0] for field, place in zip(fields, places, strict=True) if len(place) > 1]
    members = {k: v for k, v in vars(declaration).items() if k not in ("__dict__", "__weakref__")}
    members |= {"__slots__": (), "_anonymous_": anonymous, "_fields_": fields}
    rebuilt = types.new_class(declaration.__name__, declaration.__bases__, {}, lambda body: body.update(members))
    return cast("type[S]", rebuilt)


def offset_of(declaration: type[ctypes.Structure], name: str) -> int:
    """C's offsetof: where a field begins, in bytes."""
    return int(getattr(declaration, name).offset)


class Argsz(ctypes.Structure):
    """linux/vfio.h: a struct that begins with argsz, its size in bytes, which the constructor fills in."""

    __slots__ = ()

    def __init__(self, **fields: object) -> None:
        super().__init__(**{"argsz": ctypes.sizeof(self), **fields})


class Size(ctypes.Structure):
    """linux/iommufd.h: a struct that begins with size, its size in bytes, which the constructor fills in."""

    __slots__ = ()

    def __init__(self, **fields: object) -> None:
        super().__init__(**{"size": ctypes.sizeof(self), **fields})


def _IO(type: int, nr: int) -> int:  # noqa: A002, N802
    """asm-generic/ioctl.h: an ioctl number without size or direction."""
    return type << 8 | nr


def _ctype(annotation: object) -> tuple[type, bool]:
    if get_origin(annotation) is not Annotated:
        return cast("type", annotation), False
    declared, *metadata = get_args(annotation)
    is_overlay = _OVERLAY in metadata
    if get_origin(declared) is ctypes.Array:
        (element,) = get_args(declared)
        return element * metadata[0], is_overlay
    if metadata == [_OVERLAY]:
        return cast("type", declared), True
    return metadata[0], is_overlay


def _anonymous_union(fields: list[tuple[str, type]]) -> tuple[str, type]:
    name = "_" + "_or_".join(field for field, _ in fields)
    return name, type(name, (ctypes.Union,), {"_fields_": fields})


def _unmangled(owner: type, name: str) -> str:
    """The name as written: Python prefixes the class's name to names that begin with two underscores."""
    return name.removeprefix("_" + owner.__name__.lstrip("_")) if name.startswith("_") else name
