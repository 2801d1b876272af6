"""What the running kernel was built with, and which of its modules are there to be loaded."""

from __future__ import annotations

import enum
import gzip
import re
import zlib

from pyvfio.kernel import Kernel, exists, names_in, read_bytes, text_or_empty


class ModuleState(enum.Enum):
    """Whether the kernel has a module."""

    LOADED = enum.auto()
    """It is loaded or built in."""
    LOADABLE = enum.auto()
    """modprobe finds it on disk."""
    NOT_BUILT = enum.auto()
    """The kernel was built without it."""
    NO_MODULES = enum.auto()
    """None of this kernel's modules are on disk."""
    UNKNOWN = enum.auto()
    """Neither its configuration nor its lists of modules say so."""


class Build:
    """How the running kernel was built. Its configuration is read when it is first asked for.

    release: the kernel's release, "6.12.9-amd64"; "" if it does not say.
    """

    def __init__(self, kernel: Kernel) -> None:
        """Look for the directory of the kernel's modules."""
        self._kernel = kernel
        self.release = text_or_empty(kernel, "/proc/sys/kernel/osrelease")
        places = (f"{root}/{self.release}" for root in ("/lib/modules", "/usr/lib/modules"))
        self._directory = next((place for place in places if self.release and names_in(kernel, place)), None)
        self._options: dict[str, str] | None = None

    def option(self, name: str) -> str | None:
        """The value of an option of the configuration, "y", "m", or "n" if it is not set.

        None if the configuration is not to be found.
        """
        if self._options is None:
            self._options = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", self._configuration(), re.MULTILINE))
        return self._options.get(name, "n") if self._options else None

    def module(self, name: str, option: str) -> ModuleState:
        """The state of a module. name: the module's, with underscores. option: the one that builds it."""
        if exists(self._kernel, f"/sys/module/{name}"):
            return ModuleState.LOADED
        if self._directory is not None:
            if name in self._modules("modules.builtin"):
                return ModuleState.LOADED
            listed = self._modules("modules.dep")
            if listed:
                return ModuleState.LOADABLE if name in listed else ModuleState.NOT_BUILT
        match self.option(option):
            case "y":
                return ModuleState.LOADED
            case "n":
                return ModuleState.NOT_BUILT
            case "m":
                return ModuleState.NO_MODULES
            case _:
                return ModuleState.UNKNOWN if self._directory or not self.release else ModuleState.NO_MODULES

    def _modules(self, name: str) -> set[str]:
        """The names of modules in one of the lists that depmod makes."""
        text = text_or_empty(self._kernel, f"{self._directory}/{name}")
        return {match.replace("-", "_") for match in re.findall(r"^(?:\S*/)?([\w-]+)\.ko", text, re.MULTILINE)}

    def _configuration(self) -> str:
        """The text of the configuration; "" if it is not to be found."""
        try:
            return gzip.decompress(read_bytes(self._kernel, "/proc/config.gz")).decode(errors="replace")
        except (OSError, EOFError, zlib.error):
            pass
        places = [f"/boot/config-{self.release}", f"/lib/modules/{self.release}/config"] if self.release else []
        return next(filter(None, (text_or_empty(self._kernel, place) for place in places)), "")
