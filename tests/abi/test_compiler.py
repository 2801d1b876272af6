"""The mirrors against what a C compiler says, and the checker against headers and mirrors made up for it."""

import argparse
import ctypes
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from pyvfio import abi_check
from pyvfio.abi.types import Argsz, FlexibleArray, Overlay, s32, struct, u8, u16, u32, u64
from pyvfio.abi_check import MIRRORS, AbiCheckError, Kind, Mirror, Status, check
from tests.support.schemas import checked

HEADER = "linux/example.h"
MODULE = "example_mirror"
VIRTIO_MEM = Mirror("linux/virtio_mem.h", "virtiomem.abi")
VIRTIO = (
    VIRTIO_MEM,
    Mirror("linux/virtio_ring.h", "virtiomem.vhost_user.abi.virtio_ring", complete=False),
    Mirror("linux/virtio_config.h", "virtiomem.vhost_user.abi.virtio_config", complete=False),
    Mirror("linux/aio_abi.h", "virtiomem.vhost_user.abi.aio_abi", complete=False),
    Mirror("linux/vhost_types.h", "virtiomem.vhost_user.abi.vhost_types", complete=False),
)

Example = Callable[[str, Mapping[str, object]], dict[str, tuple[Status, str | None, str | None]]]


WRONG_FALLOC = "#define FALLOC_FL_KEEP_SIZE 1\n#define FALLOC_FL_PUNCH_HOLE 4\n"


def write(header: Path, text: str) -> None:
    header.parent.mkdir()
    header.write_text(text)


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    abi_check.add_arguments(parser)
    return abi_check.run(parser.parse_args(arguments))


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if shutil.which("cc") is None:
        reason = "no C compiler: install gcc and libc6-dev"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Example:
    """Checks a mirror with these members against a header with this text: status, mirror and header by name."""

    def _check(text: str, members: Mapping[str, object]) -> dict[str, tuple[Status, str | None, str | None]]:
        header = tmp_path / HEADER
        write(header, text)
        module = ModuleType(MODULE)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, MODULE, module)
        (report,) = check(tmp_path, mirrors=[Mirror(HEADER, MODULE)]).headers
        assert report.path == str(header)
        return {row.name: (row.status, row.mirror, row.header) for row in report.rows}

    return _check


@pytest.mark.parametrize("mirror", [*MIRRORS, *VIRTIO], ids=lambda mirror: mirror.header)
def test_the_mirror_agrees_with_the_installed_header(mirror: Mirror) -> None:
    try:
        (header,) = check(mirrors=[mirror]).headers
    except AbiCheckError as error:
        pytest.skip(str(error))
    assert header.having(Status.DIFFER) == ()
    assert header.having(Status.AGREE)


def test_a_wrong_mirror_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    @struct
    class vfio_irq_info(Argsz):
        argsz: u32
        flags: u32
        count: u32
        index: u32

    @struct
    class vfio_device_ioeventfd(Argsz):
        argsz: u32
        flags: u32
        offset: u64
        data: u64
        fd: u32
        reserved: u32

    @struct
    class vfio_irq_set(Argsz):
        argsz: u32
        flags: u32
        index: u32
        start: u32
        count: u32
        data: FlexibleArray[ctypes.c_int32]

    @struct
    class vfio_group_status(Argsz):
        argsz: u32
        flags: u64

    wrong = ModuleType(MODULE)
    vars(wrong).update({cls.__name__: cls for cls in (vfio_irq_info, vfio_device_ioeventfd, vfio_irq_set)})
    vars(wrong).update(vfio_group_status=vfio_group_status, VFIO_IOMMU_MAP_DMA=0x3B72, VFIO_PCI_NUM_IRQS=4)
    vars(wrong).update(VFIO_DEVICE_API_PCI_STRING="vfio_pci")
    monkeypatch.setitem(sys.modules, MODULE, wrong)
    report = check(mirrors=[Mirror("linux/vfio.h", MODULE, complete=False)])
    assert report.differs
    assert {row.name: (row.mirror, row.header) for row in report.headers[0].having(Status.DIFFER)} == {
        "vfio_irq_info.count": ("u32 at 8", "u32 at 12"),
        "vfio_irq_info.index": ("u32 at 12", "u32 at 8"),
        "vfio_device_ioeventfd.fd": ("u32 at 24", "s32 at 24"),
        "vfio_irq_set.data": ("s32[] at 20", "u8[] at 20"),
        "vfio_group_status": ("16 bytes", "8 bytes"),
        "vfio_group_status.flags": ("u64 at 8", "u32 at 4"),
        "VFIO_IOMMU_MAP_DMA": ("0x3b72", "0x3b71"),
        "VFIO_PCI_NUM_IRQS": ("0x4", "0x5"),
        "VFIO_DEVICE_API_PCI_STRING": ('"vfio_pci"', '"vfio-pci"'),
    }


def test_everything_a_header_can_say_is_read(example: Example) -> None:
    header = r"""
        #ifndef EXAMPLE_H
        #define EXAMPLE_H
        #include <linux/types.h>
        #define EXAMPLE_TYPE (';')
        #define EXAMPLE_LAST ((EXAMPLE_TYPE << 8) | 100)
        #define EXAMPLE_SIGN (1 << 31)
        #define EXAMPLE_MASK (~0xfULL)
        #define EXAMPLE_NAME "example; {"
        #define EXAMPLE_CALL(x) ((x) + 1)
        enum { EXAMPLE_A, EXAMPLE_B = (1 << 2), EXAMPLE_C, };
        enum example_more { EXAMPLE_D = EXAMPLE_C };
        struct example_part { __u8 bytes[3]; };
        struct example {
            __u32 first, second;
            union { __s32 fd; __u16 half; };
            struct { __s16 low; } named;
            struct example_part part, parts[2];
            __u64 wide __attribute__((aligned(8)));
            __u64 *pointer;
            struct example_part *to;
            __u16 tail[];
        };
        int example_function(struct example *argument);
        #endif
    """
    assert {name: said for name, (_, _, said) in example(header, {}).items()} == {
        "EXAMPLE_TYPE": "0x3b",
        "EXAMPLE_LAST": "0x3b64",
        "EXAMPLE_SIGN": "0x80000000",
        "EXAMPLE_MASK": "0xfffffffffffffff0",
        "EXAMPLE_NAME": '"example; {"',
        "EXAMPLE_A": "0x0",
        "EXAMPLE_B": "0x4",
        "EXAMPLE_C": "0x5",
        "EXAMPLE_D": "0x5",
        "example_part": "3 bytes",
        "example_part.bytes": "u8[3] at 0",
        "example": "48 bytes",
        "example.first": "u32 at 0",
        "example.second": "u32 at 4",
        "example.fd": "s32 at 8",
        "example.half": "u16 at 8",
        "example.named": "2-byte struct at 12",
        "example.part": "3-byte struct at 14",
        "example.parts": "3-byte struct[2] at 17",
        "example.wide": "u64 at 24",
        "example.pointer": "u64 at 32",
        "example.to": "u64 at 40",
        "example.tail": "u16[] at 48",
    }


def test_a_header_of_another_age_does_not_differ(example: Example) -> None:
    @struct
    class example_info(Argsz):
        argsz: u32
        flags: u8
        __reserved: u8
        order: u16
        fd: s32
        id: Overlay[u32]

    header = """
        struct example_info { unsigned argsz; unsigned char flags, __reserved[3]; };
        enum { EXAMPLE_IRQ, EXAMPLE_NUM_IRQS };
    """
    members = {"example_info": example_info, "EXAMPLE_IRQ": 0, "EXAMPLE_NEW_IRQ": 1, "EXAMPLE_NUM_IRQS": 2}
    assert example(header, members) == {
        "example_info": (Status.REVISED, "12 bytes", "8 bytes"),
        "example_info.argsz": (Status.AGREE, "u32 at 0", "u32 at 0"),
        "example_info.flags": (Status.AGREE, "u8 at 4", "u8 at 4"),
        "example_info.__reserved": (Status.REVISED, "u8 at 5", "u8[3] at 5"),
        "example_info.order": (Status.NOT_IN_HEADER, "u16 at 6", None),
        "example_info.fd": (Status.NOT_IN_HEADER, "s32 at 8", None),
        "example_info.id": (Status.NOT_IN_HEADER, "u32 at 8", None),
        "EXAMPLE_IRQ": (Status.AGREE, "0x0", "0x0"),
        "EXAMPLE_NEW_IRQ": (Status.NOT_IN_HEADER, "0x1", None),
        "EXAMPLE_NUM_IRQS": (Status.REVISED, "0x2", "0x1"),
    }


def test_a_struct_of_another_size_differs_if_no_field_explains_it(example: Example) -> None:
    @struct
    class example_info(Argsz):
        argsz: u32
        flags: u64

    rows = example("struct example_info { unsigned argsz, flags; };", {"example_info": example_info})
    assert rows["example_info"] == (Status.DIFFER, "16 bytes", "8 bytes")


def test_an_incomplete_mirror_is_compared_in_what_it_has() -> None:
    (header,) = check(mirrors=[Mirror("linux/mman.h", "pyvfio.abi.mman", ("MADV_",), complete=False)]).headers
    assert header.having(Status.NOT_IN_MIRROR) == ()
    assert {row.kind for row in header.rows} == {Kind.NUMBER}
    assert all(row.name.startswith("MADV_") for row in header.rows)


def test_a_tree_does_not_borrow_headers_from_the_system(tmp_path: Path) -> None:
    write(tmp_path / "linux/falloc.h", WRONG_FALLOC)
    report = check(tmp_path)
    assert {header.header: header.path for header in report.headers if header.path} == {
        "linux/falloc.h": str(tmp_path / "linux/falloc.h")
    }
    assert {header.release for header in report.headers} == {""}


@pytest.mark.parametrize(
    ("arguments", "header", "message"),
    [
        (["--cc", "no-such-compiler"], "", "no-such-compiler was not found. Install one"),
        ([], None, "has none of linux/vfio.h"),
        ([], "struct broken { missing_type field; };", "missing_type.*make headers_install"),
        (["--mirror", "linux/vfio.h=no_such_module"], "", "no_such_module cannot be imported"),
    ],
)
def test_trouble_is_one_sentence_and_status_2(
    arguments: list[str],
    header: str | None,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if header is not None:
        write(tmp_path / "linux/vfio.h", header)
    assert run("--include", str(tmp_path), *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert re.search(f"^abi-check: .*{message}", line)


def test_json_has_every_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "linux/falloc.h", WRONG_FALLOC)
    assert run("--include", str(tmp_path), "--json") == 1
    report = json.loads(capsys.readouterr().out)
    checked("pyvfio-abi-check", report)
    assert report["include"] == str(tmp_path)
    assert report["differs"] is True
    (header,) = (header for header in report["headers"] if header["header"] == "linux/falloc.h")
    assert header["counts"]["number"] == {
        "agree": 1,
        "differ": 1,
        "revised": 0,
        "not_in_mirror": 0,
        "not_in_header": 5,
    }
    assert {"kind": "number", "name": "FALLOC_FL_PUNCH_HOLE", "status": "differ", "mirror": "0x2", "header": "0x4"} in (
        header["rows"]
    )


@pytest.mark.parametrize("verbose", [False, True])
def test_text_shows_what_does_not_agree(verbose: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "linux/falloc.h", WRONG_FALLOC)
    assert run("--include", str(tmp_path), *(["-v"] if verbose else [])) == 1
    text = capsys.readouterr().out
    assert "linux/vfio.h         not in this tree" in text
    assert "differ   number FALLOC_FL_PUNCH_HOLE: mirror 0x2, header 0x4" in text
    assert "not in header: FALLOC_FL_COLLAPSE_RANGE," in text
    assert ("agree    number FALLOC_FL_KEEP_SIZE: 0x1" in text) is verbose
    assert text.endswith("Something differs.\n")
