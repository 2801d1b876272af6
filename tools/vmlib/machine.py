"""Machine: one boot of QEMU that runs one command."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vmlib import initramfs
from vmlib.errors import Unavailable, VmError
from vmlib.hardware import DISK_SIZE, Hardware
from vmlib.kernels import Image, busybox
from vmlib.packages import cache_directory

ROOT = Path(__file__).resolve().parents[2]

Output = Callable[[bytes], None]

PORTS = ("stdout", "stderr", "reports", "dmesg", "status")
"""What comes back from the guest: /dev/vm-NAME there."""


class Machine:
    """run() may be called once; kill() ends it from another thread."""

    def __init__(
        self, image: Image, hardware: Hardware, *, timeout: float = 300, qemu: str = "qemu-system-x86_64"
    ) -> None:
        """timeout: seconds until a guest that has not ended is hung. Raises Unavailable without QEMU."""
        if shutil.which(qemu) is None:
            raise Unavailable(f"{qemu} is not installed: apt-get install --no-install-recommends qemu-system-x86")
        self._image = image
        self._hardware = hardware
        self._timeout = timeout
        self._qemu = qemu
        self._process: subprocess.Popen[bytes] | None = None
        self._received = {port: bytearray() for port in ("status", "dmesg", "stderr")}
        self._console = b""
        self._lock = threading.Lock()
        self._killed = False

    @property
    def log(self) -> str:
        """The guest's kernel log, after run()."""
        text = (self._received["dmesg"] or self._console).decode(errors="replace")
        return text.replace("\r\n", "\n")

    def run(
        self, command: Sequence[str], outputs: Mapping[str, Output], environment: Mapping[str, str] | None = None
    ) -> int:
        """Boot, run command as root in this checkout, and return its exit status.

        outputs: who gets what comes from which of PORTS, as it comes. Raises VmError for a guest that hung, panicked or
        was killed; its log is kept in a file that the message names.
        """
        with tempfile.TemporaryDirectory(prefix="pyvfio-vm-") as directory:
            initrd, console = Path(directory, "initrd"), Path(directory, "console")
            job = _job(command, environment or {})
            initrd.write_bytes(
                initramfs.build(busybox(), self._image.modules, Path(__file__).parent / "init", {"job.sh": job})
            )
            disk = Path(directory, "disk")
            with disk.open("wb") as file:
                file.truncate(DISK_SIZE)
            hung = self._boot(self._arguments(initrd, console, disk), outputs)
            self._console = console.read_bytes() if console.exists() else b""
        status = bytes(self._received["status"]).strip()
        if status.isdigit():
            return int(status)
        raise self._failure(hung)

    def kill(self) -> None:
        """End the machine now; run() raises VmError."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def _boot(self, arguments: list[str], outputs: Mapping[str, Output]) -> bool:
        """Run QEMU to its end; whether it had to be ended."""
        pairs = {port: socket.socketpair() for port in PORTS}
        fds = [theirs.fileno() for _, theirs in pairs.values()]
        for port, fd in zip(pairs, fds, strict=True):
            arguments += ["-chardev", f"socket,id={port},fd={fd}"]
            arguments += ["-device", f"virtserialport,chardev={port},name={port}"]
        with self._lock:
            if self._killed:
                return False
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=fds,
            )
        pumps = []
        for port, (ours, theirs) in pairs.items():
            theirs.close()
            pumps.append(threading.Thread(target=self._pump, args=(port, ours, outputs.get(port)), daemon=True))
            pumps[-1].start()
        try:
            _, complaint = self._process.communicate(timeout=self._timeout)
            hung = False
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, complaint = self._process.communicate()
            hung = True
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        for pump in pumps:
            pump.join()
        if self._process.returncode > 0:
            raise VmError(f"QEMU failed: {complaint.decode(errors='replace').strip()}")
        return hung

    def _pump(self, port: str, source: socket.socket, output: Output | None) -> None:
        with source:
            while data := _receive(source):
                if port in self._received:
                    self._received[port] += data
                if output is not None:
                    output(data)

    def _failure(self, hung: bool) -> VmError:
        directory = cache_directory() / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{self._image.name}-", suffix=".log", dir=directory)
        with os.fdopen(handle, "wb") as file:
            file.write(self._console + bytes(self._received["stderr"]))
        tail = "\n".join(self._console.decode(errors="replace").replace("\r", "").splitlines()[-15:])
        if self._killed:
            what = "was ended"
        elif hung:
            what = f"had not ended after {self._timeout:.0f} s and was ended"
        elif "Kernel panic" in tail or b"Kernel panic" in self._console:
            what = "panicked"
        else:
            what = "ended without an exit status"
        return VmError(f"the guest ({self._image.name}) {what}; its log is {name}\n{tail}")

    def _arguments(self, initrd: Path, console: Path, disk: Path) -> list[str]:
        append = (
            "console=ttyS0 panic=-1 reboot=t quiet loglevel=4 mitigations=off nokaslr tsc=reliable no_timer_check "
            "random.trust_cpu=on "
            f"{self._hardware.kernel_arguments}"
        )
        return [
            *(self._qemu, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off", "-accel", "tcg,thread=multi"),
            *("-kernel", str(self._image.vmlinuz), "-initrd", str(initrd), "-append", append),
            *("-serial", f"file:{console}"),
            *self._hardware.processor_arguments(),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host", "-device", "virtio-serial-pci"),
            *self._hardware.device_arguments(disk),
        ]


def _job(command: Sequence[str], environment: Mapping[str, str]) -> str:
    settings = {
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PATH": f"{ROOT}/.venv/bin:{os.environ.get('PATH', '')}:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        **environment,
    }
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    return f"{exports}cd {shlex.quote(str(ROOT))}\n{shlex.join(command)}\n"


def _receive(source: socket.socket) -> bytes:
    try:
        return source.recv(65536)
    except ConnectionResetError:
        return b""
