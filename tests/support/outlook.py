"""The plugin that says before the first test what a whole session is going to do, and about how long that takes."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from vmlib.kernels import cached
from vmlib.packages import cache_directory

from tests.support.thorough import is_thorough
from tests.support.vm.host import target_name
from tests.support.vm.target import TARGETS

_MINUTES = {True: 25, False: 15}
"""On two idle processors, with what is exhaustive and without, where nothing is known of the machine."""
_BUILDING = 10
"""Minutes of two processors for a kernel that is built."""


class Outlook:
    """Remembers beside the kernels how long a session of the same kind took last."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._kind = ""
        self._begin = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        counts = Counter(target_name(item) for item in session.items)
        here = counts.pop(None, 0)
        machines = {str(name): count for name, count in counts.items()}
        if not machines or session.config.option.collectonly:
            return
        self._kind = f"{' '.join(sorted(machines))}{', exhaustive' * is_thorough()}"
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            for line in outlook(here, machines, _took().get(self._kind)):
                reporter.write_line(line)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        # Of one that was broken off nothing can be learnt.
        if self._kind and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            with suppress(OSError):
                _file().write_text(json.dumps({**_took(), self._kind: round(time.monotonic() - self._begin)}))


def outlook(here: int, machines: dict[str, int], took: int | None) -> list[str]:
    """here: how many tests run in this process. machines: how many in each machine. took: seconds, the last time."""
    where = ", ".join(f"{count} on {name}" for name, count in machines.items())
    lines = [f"{here} tests in this process; in virtual machines beside it {where}"]
    kernels = dict.fromkeys(TARGETS[name].kernel for name in machines)
    if missing := [kernel for kernel in kernels if not cached(kernel)]:
        built = any(kernel.startswith("built") for kernel in missing)
        lines.append(
            f"first the kernels {', '.join(missing)} are fetched"
            + (f", and built: about {_BUILDING} minutes on two idle processors, once" if built else "")
        )
    if took is None:
        lines.append(f"all of it takes about {_MINUTES[is_thorough()]} minutes on two idle processors")
    else:
        lines.append(f"the last time it took {max(1, round(took / 60))} minutes")
    return lines


def _file() -> Path:
    return cache_directory() / "sessions.json"


def _took() -> dict[str, int]:
    with suppress(OSError, ValueError):
        data = json.loads(_file().read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return {str(kind): took for kind, took in data.items() if isinstance(took, int)}
    return {}


def pytest_configure(config: pytest.Config) -> None:
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.pluginmanager.register(Outlook(config))
