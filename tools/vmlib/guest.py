"""Guest: a stock Linux whose virtio-mem device is somebody else's, behind a vhost-user socket."""

from __future__ import annotations

import itertools
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from vmlib import initramfs
from vmlib.errors import VmError
from vmlib.kernels import Image, busybox
from vmlib.qemu import recent_qemu

MODULES = ("virtio_pci", "virtio_console", "virtio_mem")
RAM = 384
"""MiB that the guest has without the region."""


class Guest:
    """Boots at once, with nothing but busybox, and takes commands until close()."""

    def __init__(
        self,
        image: Image,
        device: str,
        address: int,
        size: int,
        *,
        backend: str = "memory-backend-memfd",
        ring: str = "",
        append: str = "",
        devices: Sequence[str] = (),
        modules: Sequence[str] = (),
        accelerator: str = "tcg,thread=multi",
        cpu: str = "max",
        timeout: float = 300,
    ) -> None:
        """device: the socket. address, size: of the device's region, in bytes, which backend holds.

        ring: further properties of the device, packed=on for example. append: the kernel's further arguments, devices:
        values of -device, modules: further ones of the kernel. timeout:
        seconds that any answer may take. Raises Unavailable without QEMU.
        """
        self._timeout = timeout
        self._marks = itertools.count()
        self._received = bytearray()
        self._directory = tempfile.mkdtemp(prefix="pyvfio-guest-")
        self._console = Path(self._directory, "console")
        initrd = Path(self._directory, "initrd")
        init = Path(__file__).parent / "guest-init"
        initrd.write_bytes(initramfs.build(busybox(), image.modules, init, {}, (*MODULES, *modules)))
        self._port, theirs = socket.socketpair()
        arguments = [
            *(str(recent_qemu()), "-nodefaults", "-no-user-config", "-display", "none"),
            *("-machine", "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off,memory-backend=ram"),
            *("-accel", accelerator, "-cpu", cpu, "-m", f"{RAM}M,slots=1,maxmem={RAM + 2 * (size >> 20)}M"),
            *("-object", f"memory-backend-memfd,id=ram,size={RAM}M,share=on"),
            *("-object", f"{backend},id=region,size={size},share=on,reserve=off"),
            *("-device", f"pc-dimm,memdev=region,addr={address}"),
            *("-kernel", str(image.vmlinuz), "-initrd", str(initrd)),
            # The region is the device's, not a memory module's that ACPI would give to the guest whole.
            *("-append", f"{_KERNEL_ARGUMENTS} acpi_no_memhotplug memhp_default_state=online_movable {append}"),
            *("-serial", f"file:{self._console}", "-device", "virtio-serial-pci"),
            *("-chardev", f"socket,id=port,fd={theirs.fileno()}", "-device", "virtserialport,chardev=port,name=port"),
            *("-chardev", f"socket,id=device,path={device}"),
            *("-device", f"vhost-user-test-device-pci,chardev=device,virtio-id=24,num_vqs=1,config_size=56{ring}"),
        ]
        for further in devices:
            arguments += ["-device", further]
        with Path(self._directory, "qemu").open("wb") as complaints:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=complaints,
                stderr=complaints,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()

    def wait_until_booted(self) -> None:
        """Raises VmError if it does not come up."""
        self._read_until(b"ready\n")

    def run(self, command: str) -> str:
        """What the command writes. Raises VmError if it fails, or the guest does not answer."""
        mark = f"mark-{next(self._marks)}"
        self._port.sendall(f"{command}\necho {mark} $?\n".encode())
        output = self._read_until(f"{mark} ".encode())
        status = self._read_until(b"\n").decode().strip()
        if status != "0":
            raise VmError(f"in the guest, {command!r} ended with {status}: {output.decode(errors='replace')}")
        return output.decode(errors="replace")

    def reboot(self) -> None:
        """From its beginning, in the same QEMU. Returns when it is up again."""
        self._port.sendall(b"reboot -f\n")
        self.wait_until_booted()

    def kill(self) -> None:
        """As a crash of QEMU does, with nothing said to anybody. Killing twice is harmless."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Closing twice is harmless."""
        self.kill()
        self._port.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_until(self, mark: bytes) -> bytes:
        deadline = time.monotonic() + self._timeout
        while (place := self._received.find(mark)) < 0:
            self._port.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._port.recv(65536)
            except TimeoutError:
                raise self._failure("does not answer") from None
            except ConnectionResetError:
                data = b""
            if not data:
                raise self._failure("has gone")
            self._received += data.replace(b"\r\n", b"\n")
        result = bytes(self._received[:place])
        del self._received[: place + len(mark)]
        return result

    def _failure(self, what: str) -> VmError:
        said = Path(self._directory, "qemu").read_text(errors="replace").strip()
        lines = self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        tail = "\n".join(lines[-20:])
        return VmError(f"the guest {what}; QEMU ({self._process.poll()}) says {said!r}, the console\n{tail}")


_KERNEL_ARGUMENTS = (
    "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on"
)
