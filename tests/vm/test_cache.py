"""What comes into the cache: modules in their order, the newest of several versions, and what is said meanwhile."""

from __future__ import annotations

import io
import lzma
import threading
from pathlib import Path

import pytest
from vmlib.errors import Unavailable
from vmlib.initramfs import ordered_modules
from vmlib.kernels import KERNELS, cached
from vmlib.packages import locked, newest
from vmlib.progress import Progress


def test_modules_come_after_what_they_depend_on(tmp_path: Path) -> None:
    (tmp_path / "vfio-pci.ko").write_bytes(b"\0depends=vfio-pci-core,vfio\0")
    (tmp_path / "vfio-pci-core.ko.xz").write_bytes(lzma.compress(b"\0depends=vfio\0"))
    (tmp_path / "vfio.ko").write_bytes(b"\0depends=\0")
    loaded = ordered_modules(tmp_path, ("vfio_pci", "built_in"))
    assert list(loaded) == ["vfio", "vfio_pci_core", "vfio_pci"]
    assert loaded["vfio_pci_core"] == b"\0depends=vfio\0"


def test_versions_are_numbers() -> None:
    assert newest(["linux-source-6.9", "linux-source-6.12", "linux-source-6.2"]) == "linux-source-6.12"
    with pytest.raises(Unavailable):
        newest([])


@pytest.mark.parametrize("name", KERNELS)
def test_an_empty_cache_has_no_kernel(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert not cached(name)


class Told(Progress):
    """Notes that something was said."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.event = threading.Event()

    def say(self, text: str) -> None:
        assert "waiting for another process" in text
        self.event.set()


def test_who_waits_is_told(tmp_path: Path) -> None:
    def wait() -> None:
        with locked(tmp_path / "kernel", second):
            pass

    first, second = Told(), Told()
    waiting = threading.Thread(target=wait)
    with locked(tmp_path / "kernel", first):
        waiting.start()
        assert second.event.wait(10)
    waiting.join()
    assert not first.event.is_set()


def test_progress_says_what_begins_and_what_it_took() -> None:
    said = io.StringIO()
    with Progress(said).during("fetching it") as report:
        report("half of it")
    assert said.getvalue() == "vm: fetching it\nvm: done fetching it: 0 s\n"
    with pytest.raises(OSError, match="gone"), Progress(said).during("building it"):
        raise OSError("gone")
    assert said.getvalue().endswith("vm: building it\n")
