"""Machine: one boot of QEMU that runs one command."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from vmlib import initramfs
from vmlib.errors import Unavailable, VmError
from vmlib.hardware import DISK_SIZE, Hardware
from vmlib.kernels import Image, busybox
from vmlib.packages import cache_directory
from vmlib.ports import CONSOLE, Output, Ports

QEMU = "qemu-system-x86_64"
ROOT = Path(__file__).resolve().parents[2]
LOGS_KEPT = 20
SHOWN = 15
"""Lines of the log in an error message."""


def check_qemu() -> None:
    """Raises Unavailable without QEMU."""
    if shutil.which(QEMU) is None:
        raise Unavailable(f"{QEMU} is not installed: apt-get install --no-install-recommends qemu-system-x86")


class Machine:
    """run() may be called once; kill() ends it from another thread."""

    def __init__(
        self,
        image: Image,
        hardware: Hardware,
        *,
        timeout: float = 300,
        verbose: bool = False,
    ) -> None:
        """timeout: seconds until a guest that has not ended is hung. verbose: the kernel says all on its console.

        Raises Unavailable without QEMU.
        """
        check_qemu()
        self._image = image
        self._hardware = hardware
        self._timeout = timeout
        self._verbose = verbose
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._killed = threading.Event()
        self._log = b""

    @property
    def log(self) -> str:
        """The guest's kernel log, after run()."""
        return self._log.decode(errors="replace").replace("\r", "")

    def run(
        self, command: Sequence[str], outputs: Mapping[str, Output], environment: Mapping[str, str] | None = None
    ) -> int:
        """Boot, run command as root in this checkout, and return its exit status.

        outputs: who gets what comes from which port (see ports.py), as it comes. Raises VmError for a guest that hung,
        panicked or was killed; its log is kept in a file that the message names.
        """
        with tempfile.TemporaryDirectory(prefix="pyvfio-vm-") as name, closing(Ports(outputs)) as ports:
            directory = Path(name)
            files = {"job.sh": _job(command, environment or {})}
            modules = (*initramfs.MODULES, *self._hardware.modules)
            archive = initramfs.build(busybox(), self._image.modules, Path(__file__).parent / "init", files, modules)
            (directory / "initrd").write_bytes(archive)
            with (directory / "disk").open("wb") as disk:
                disk.truncate(DISK_SIZE)
            trouble = self._boot([*self._arguments(directory), *ports.arguments()], ports)
            status = ports.received("status").strip()
            self._log = ports.received("dmesg") or ports.received(CONSOLE)
            if status.isdigit():
                return int(status)
            kept = self.keep_log(ports.received("stderr"))
            _, panic, why = self.log.partition("Kernel panic")
            lines = (panic + why).splitlines()[:SHOWN] if panic else self.log.splitlines()[-SHOWN:]
            trouble = "panicked" if panic else trouble
            raise VmError("\n".join([f"the guest ({self._image.name}) {trouble}; its log is {kept}", *lines]))

    def kill(self) -> None:
        """End the machine now; run() raises VmError."""
        with self._lock:
            self._killed.set()
            if self._process is not None:
                self._process.kill()

    def keep_log(self, more: bytes = b"") -> Path:
        """Write the guest's kernel log to a file in the cache, which keeps the last few."""
        directory = cache_directory() / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "wb", prefix=f"{self._image.name}-", suffix=".log", dir=directory, delete=False
        ) as file:
            file.write(self.log.encode() + more)
        for old in sorted(directory.glob("*.log"), key=os.path.getmtime)[:-LOGS_KEPT]:
            old.unlink(missing_ok=True)
        return Path(file.name)

    def _boot(self, arguments: Sequence[str], ports: Ports) -> str:
        """Run QEMU to its end, and say how it ended."""
        with self._lock:
            if self._killed.is_set():
                return "was ended before it began"
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=ports.fds,
                start_new_session=True,  # Ctrl-C is for this process, which ends it
            )
        ports.start()
        try:
            _, complaint = self._process.communicate(timeout=self._timeout)
        except subprocess.TimeoutExpired:
            return f"had not ended after {self._timeout:.0f} s and was ended"
        finally:
            self._process.kill()
            self._process.wait()
            ports.join()
        if self._killed.is_set():
            return "was ended"
        if self._process.returncode:
            raise VmError(f"QEMU ended with {self._process.returncode}: {complaint.decode(errors='replace').strip()}")
        return "ended without an exit status"

    def _arguments(self, directory: Path) -> list[str]:
        append = (
            "console=ttyS0 panic=-1 reboot=t mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on "
            f"{'ignore_loglevel' if self._verbose else 'quiet'} {self._hardware.kernel_arguments}"
        )
        return [
            *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35,usb=off,vmport=off,smbus=off,sata=off,hpet=off", "-accel", "tcg,thread=multi"),
            *("-kernel", str(self._image.vmlinuz), "-initrd", str(directory / "initrd"), "-append", append),
            *self._hardware.processor_arguments(),
            *("-fsdev", "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"),
            *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
            *self._hardware.device_arguments(directory / "disk"),
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
