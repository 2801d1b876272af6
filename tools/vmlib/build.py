"""Kernels built from Debian's linux-source package, for what no distribution's kernel has switched on."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from vmlib.errors import Unavailable
from vmlib.packages import TIMEOUT, Suite, cache_directory, newest
from vmlib.progress import Progress

SETUP = Path(__file__).resolve().parents[1] / "setup"
MAKE_TIMEOUT = 3600
"""Seconds for one run of make: an hour where it shares two processors with all else."""
_OPTION = re.compile(r"^(?:# )?(CONFIG_\w+)[= ].*$", re.MULTILINE)


@contextmanager
def tree(suite: str, progress: Progress) -> Iterator[Tree]:
    """The newest kernel source of the suite, unpacked for as long as the context lasts. Raises Unavailable."""
    _set_up()
    archive = Suite(suite)
    package = newest(archive.packages("linux-source-"))
    directory = cache_directory() / "build"
    shutil.rmtree(directory, ignore_errors=True)
    try:
        with progress.during(f"fetching {package} of {suite}"):
            archive.unpack([package], directory)
            (source,) = directory.glob("usr/src/*.tar.xz")
            subprocess.run(["tar", "--extract", "--file", source, "--directory", directory], check=True)
            source.unlink()
        yield Tree(directory / package, directory / "objects", progress)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _set_up() -> None:
    try:
        # Standard output may be a caller's channel, and apt-get must not read what the caller is sent.
        command = [str(SETUP), "kernel"]
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True, timeout=TIMEOUT)
    except subprocess.CalledProcessError as error:
        raise Unavailable("a kernel cannot be built without what tools/setup kernel names") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"tools/setup kernel had not ended after {TIMEOUT} s and was ended") from error


class Tree:
    """One source, and one directory of objects that builds share: a second configuration compiles only what differs."""

    def __init__(self, source: Path, objects: Path, progress: Progress) -> None:
        self._source = source
        self._progress = progress
        self._objects = objects
        objects.mkdir()

    def build(self, name: str, configuration: str, directory: Path) -> None:
        """Build a kernel with tinyconfig and configuration over it, and install it in directory like a package would.

        Raises Unavailable, naming the log, where make fails or an option cannot be had.
        """
        log = cache_directory() / "logs" / f"build-{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        what = f"building kernel {name} from {self._source.name}"
        with log.open("w") as output, self._progress.during(what) as report:
            self._make(output, report, "tinyconfig")
            with (self._objects / ".config").open("a") as config:
                config.write(configuration)
            self._make(output, report, "olddefconfig")
            self._check(name, configuration)
            self._make(output, report, "bzImage", "modules")
            self._make(output, report, "modules_install", f"INSTALL_MOD_PATH={directory}", "DEPMOD=true")
        (release,) = (directory / "lib/modules").iterdir()
        (directory / "boot").mkdir()
        shutil.copy(self._objects / "arch/x86/boot/bzImage", directory / f"boot/vmlinuz-{release.name}")
        shutil.copy(self._objects / ".config", directory / f"boot/config-{release.name}")

    def _make(self, log: TextIO, report: Callable[[str], None], *targets: str) -> None:
        """One run of make, below the priority of other work; reports how far it is."""
        command = ["nice", "-n", "5", "make", f"-j{os.cpu_count()}", f"O={self._objects}", *targets]
        lines: list[str] = []
        process = subprocess.Popen(
            command,
            cwd=self._source,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # so that its compilers end with it
        )
        expired = threading.Event()

        def end() -> None:
            expired.set()
            os.killpg(process.pid, signal.SIGKILL)

        limit = threading.Timer(MAKE_TIMEOUT, end)
        assert process.stdout is not None
        try:
            limit.start()
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                report(f"{len(lines)} steps of {targets[0]}")
            process.wait()
        finally:
            limit.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
        if expired.is_set():
            raise Unavailable(f"make {targets[0]} had not ended after {MAKE_TIMEOUT} s and was ended, see {log.name}")
        if process.returncode:
            raise Unavailable(f"make {targets[0]} failed, see {log.name}:\n{''.join(lines[-15:])}")

    def _check(self, name: str, configuration: str) -> None:
        """Kconfig drops in silence what a fragment asks for and does not exist or lacks something else."""
        wanted = {match[1]: match[0] for match in _OPTION.finditer(configuration)}
        config = (self._objects / ".config").read_text()
        got = {match[1]: match[0] for match in _OPTION.finditer(config)}
        lost = [line for option, line in wanted.items() if got.get(option, f"# {option} is not set") != line]
        if lost:
            raise Unavailable(f"{self._source.name} does not take from the configuration of {name}: {', '.join(lost)}")
