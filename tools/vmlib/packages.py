"""Packages of any suite of this machine's distribution, fetched and unpacked beside the system, which is not changed.

apt verifies them against the archive's keyring; the mirror is the one this machine's apt uses.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vmlib.errors import Unavailable
from vmlib.progress import Progress

TIMEOUT = 1200
"""Seconds for one call of a package manager: the largest download is a kernel's source, 150 MB."""


def cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "pyvfio"


@contextmanager
def locked(path: Path, progress: Progress | None = None) -> Iterator[None]:
    """One process at a time makes what is to be at path; progress says so where that means to wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if progress:
                progress.say(f"waiting for another process that makes {path}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def newest(names: Iterable[str]) -> str:
    """The name with the highest version in it. Raises Unavailable if there are none."""
    if not (candidates := list(names)):
        raise Unavailable("the suite has no such package")
    return max(candidates, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


class Suite:
    """An apt of its own for one suite ("trixie"), or for one with others below it that its packages build on."""

    def __init__(self, name: str, *below: str) -> None:
        """Reads the suites' package lists. Raises Unavailable without apt, or without the suites."""
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise Unavailable("what the virtual machine needs comes from Debian packages, and this machine has no apt")
        self.name = name
        self._directory = cache_directory() / "apt" / "+".join((name, *below))
        uri, keyring = mirror()
        with locked(self._directory):
            for part in ("lists/partial", "cache/archives/partial"):
                (self._directory / part).mkdir(parents=True, exist_ok=True)
            sources = self._directory / "sources.list"
            sources.write_text("".join(f"deb [signed-by={keyring}] {uri} {suite} main\n" for suite in (name, *below)))
            (self._directory / "status").touch()
            options = {
                "Dir::Etc::SourceList": sources,
                "Dir::Etc::SourceParts": "/dev/null",
                "Dir::Etc::Preferences": "/dev/null",
                "Dir::Etc::PreferencesParts": "/dev/null",
                "Dir::State": self._directory,
                "Dir::State::Lists": self._directory / "lists",
                "Dir::State::Status": self._directory / "status",
                "Dir::Cache": self._directory / "cache",
                "Acquire::Languages": "none",
                # A mirror that is frozen on purpose has release files that have expired; signatures are checked.
                "Acquire::Check-Valid-Until": "false",
                "APT::Sandbox::User": "root",
                "Debug::NoLocking": "true",
            }
            self._options = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
            self._call("apt-get", "-qq", "update")

    def packages(self, prefix: str) -> list[str]:
        """The names that begin with prefix."""
        return self._call("apt-cache", "pkgnames", prefix).split()

    def depends(self, package: str) -> list[str]:
        """What the package depends on, directly."""
        lines = self._call("apt-cache", "depends", "--important", package).splitlines()
        return [line.split("Depends:")[1].strip() for line in lines if "Depends:" in line]

    def unpack(self, packages: Sequence[str], directory: Path) -> None:
        """Download packages and unpack them into directory."""
        with locked(self._directory):
            downloads = self._directory / "downloads"
            shutil.rmtree(downloads, ignore_errors=True)
            downloads.mkdir()
            self._call("apt-get", "-qq", "download", *packages, cwd=downloads)
            _extract(downloads, directory)

    def unpack_with_dependencies(self, packages: Sequence[str], directory: Path) -> None:
        """Download packages of this suite and all they depend on, libc included, and unpack them into directory."""
        with locked(self._directory):
            # The list of what is installed is empty here, so nothing is left out.
            command = ["--download-only", "--no-install-recommends", "--target-release", self.name, "--assume-yes"]
            self._call("apt-get", "-qq", *command, "install", *packages)
            _extract(self._directory / "cache/archives", directory)

    def _call(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        command, *rest = arguments
        return _run([program, *self._options, command, *rest], cwd)


def _extract(archives: Path, directory: Path) -> None:
    """Unpack all packages in archives, which are gone afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    for archive in archives.glob("*.deb"):
        _run(["dpkg", "--extract", str(archive), str(directory)])
        archive.unlink()


def own_suite() -> str:
    """The suite this machine was installed from."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    raise Unavailable("/etc/os-release names no suite")


def mirror() -> tuple[str, Path]:
    """The archive this machine's apt installs from, and its keyring: not that of security updates or third parties."""
    uris = _run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).splitlines()
    for uri in uris:
        distribution = uri.rstrip("/").rpartition("/")[2]
        if distribution in ("debian", "ubuntu", "ubuntu-ports"):
            name = distribution.removesuffix("-ports")
            return uri, Path(f"/usr/share/keyrings/{name}-archive-keyring.gpg")
    raise Unavailable("this machine's apt has no Debian or Ubuntu archive")


def _run(command: Sequence[str], cwd: Path | None = None) -> str:
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        ).stdout
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{command[0]} failed: {error.stderr.strip() or error}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} had not ended after {TIMEOUT} s and was ended") from error
