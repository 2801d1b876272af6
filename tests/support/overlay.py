"""A kernel with files of the test's own laid over another's."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from pyvfio.faults import FaultyKernel
from pyvfio.kernel import Kernel


class OverlayKernel(FaultyKernel):
    """files: path to text; links: path to target. A directory that has any of them has nothing else.

    hidden: paths that do not exist, whatever the kernel below says, with all beneath them.
    """

    def __init__(
        self,
        kernel: Kernel,
        files: Mapping[str, str] | None = None,
        links: Mapping[str, str] | None = None,
        hidden: tuple[str, ...] = (),
    ) -> None:
        super().__init__(kernel)
        self.files = dict(files or {})
        self.links = dict(links or {})
        self.hidden = hidden

    def open(self, path: str, flags: int) -> int:
        if path in self.files:
            fd = os.memfd_create("overlay")
            os.pwrite(fd, self.files[path].encode(), 0)
            return fd
        self._require_visible(path)
        return super().open(path, flags)

    def listdir(self, path: str) -> list[str]:
        names = {
            each.removeprefix(f"{path}/").split("/")[0]
            for each in [*self.files, *self.links]
            if each.startswith(f"{path}/")
        }
        if names:
            return sorted(names)
        self._require_visible(path)
        return super().listdir(path)

    def readlink(self, path: str) -> str:
        if path in self.links:
            return self.links[path]
        self._require_visible(path)
        return super().readlink(path)

    def _require_visible(self, path: str) -> None:
        if any(path == each or path.startswith(f"{each}/") for each in self.hidden):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
