"""QEMU's vfio-user-pci at our server: a simulated device is a PCI device of its machine."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vmlib.kernels import Image
from vmlib.qemu import recent_qemu

from pyvfio.abi import vfio
from pyvfio.sim.devices import Bus, Edu, Model, Nvme, PlainDevice
from tests.support.vfio_user.bench import Bench

PATIENCE = 60.0


class Served(Bench):
    """A bench whose server runs in a thread of its own, by the real clock."""

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.server.stop()
            thread.join()


@pytest.mark.parametrize("model", [Edu, PlainDevice, Nvme])
def test_qemu_takes_the_device(
    kernel_image: Callable[[str], Image], tmp_path: Path, model: Callable[[Bus], Model]
) -> None:
    kernel_image("debian-7")
    with Served(tmp_path, model, by_real_time=True) as bench, bench.running():
        device = f'{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{bench.path}"}},"id":"device"}}'
        qemu = subprocess.Popen(
            [
                *(str(recent_qemu()), "-nodefaults", "-no-user-config", "-display", "none", "-S"),
                *("-machine", "q35,memory-backend=ram", "-accel", "tcg", "-m", "64M", "-monitor", "stdio"),
                *("-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-device", device),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said, _ = qemu.communicate("info pci\ninfo mtree -f\nquit\n", timeout=PATIENCE)
        finally:
            qemu.kill()
            qemu.wait()
        config = bench.device.config
        ids = f"{config.vendor_id:04x}:{config.device_id:04x}"
        assert f"PCI device {ids}" in said, said
        assert "error" not in said.lower(), said
    # QEMU asks whether a device reports errors, and takes no for an answer.
    refused = {word.split(":")[0] for word in bench.heard.words if word.startswith(("refused", "not", "still"))}
    assert refused <= {"refused DEVICE_GET_IRQ_INFO"}
    assert bench.heard.words[:2] == ["connected", "agreed"]
    assert bench.heard.words[-1].startswith("disconnected")
    assert bench.mappings == []
    mapped = [call for call in bench.kernel.calls if call.request == vfio.VFIO_IOMMU_MAP_DMA]
    # The machine's memory is cut at 1 MiB; what else is in a file is QEMU's to choose.
    assert len(mapped) >= 2
