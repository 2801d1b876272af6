"""How a mirrored struct is declared, and what its instances do."""

import ctypes
from typing import Annotated

import pytest

from pyvfio.abi import iommufd, iommufd_test, vfio
from pyvfio.abi.types import Argsz, FlexibleArray, Overlay, offset_of, struct, u8, u16, u32, u64


@struct
class example(Argsz):
    """A struct with one of everything."""

    argsz: u32
    group_id: u32
    devid: Overlay[u32]
    offset: u64
    __reserved: u16
    bytes: Annotated[ctypes.Array[ctypes.c_uint8], 6]
    data: FlexibleArray[ctypes.c_uint32]


def test_fields_are_laid_out_as_c_does() -> None:
    fields = ("argsz", "group_id", "devid", "offset", "__reserved", "bytes", "data")
    assert [getattr(example, name).offset for name in fields] == [0, 4, 4, 8, 16, 18, 24]
    assert ctypes.sizeof(example) == 24


def test_members_of_an_anonymous_union_share_their_place() -> None:
    assert example(devid=7).group_id == 7


def test_a_struct_can_share_the_place_of_another() -> None:
    command = iommufd_test.iommu_test_cmd()
    command.check_map.length = 7
    assert (command.add_reserved.length, command.dirty.iova) == (7, 7)
    assert offset_of(iommufd_test.iommu_test_cmd, "last") == 64


def test_the_size_is_filled_in_and_can_be_given() -> None:
    assert vfio.vfio_irq_set().argsz == 20
    assert vfio.vfio_irq_set(argsz=24).argsz == 24
    assert iommufd.iommu_ioas_map().size == 40


def test_bytes_from_the_kernel_are_taken_as_they_are() -> None:
    assert vfio.vfio_group_status.from_buffer_copy(bytes(8)).argsz == 0


def test_a_misspelt_field_is_refused() -> None:
    with pytest.raises(AttributeError, match="vadr"):
        vfio.vfio_iommu_type1_dma_map(vadr=0x1000)
    with pytest.raises(AttributeError, match="flgs"):
        vfio.vfio_iommu_type1_dma_map().flgs = 1


def test_the_declaration_keeps_its_name_and_docstring() -> None:
    assert (example.__name__, example.__module__, example.__doc__) == (
        "example",
        __name__,
        "A struct with one of everything.",
    )


def test_a_union_is_declared_alike() -> None:
    @struct
    class either(ctypes.Union):
        wide: u32
        narrow: u8

    assert ctypes.sizeof(either) == 4
