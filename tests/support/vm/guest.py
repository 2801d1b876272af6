"""The plugin in the machine: says to the host which test begins and what became of it."""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

PORT = "/dev/vm-reports"
PATIENCE = 200
"""Seconds until a test hangs: then where it does goes to standard error, and the session ends."""


class Guest:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._port = Path(PORT).open("w", buffering=1)  # noqa: SIM115 (open as long as the session)
        # Here, where pytest does not yet capture it.
        self._stderr = os.dup(2)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=self._stderr)
        self._send({"begins": nodeid})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        assert isinstance(data, dict)
        self._send(data)

    def pytest_runtest_logfinish(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def pytest_unconfigure(self) -> None:
        self._port.close()
        os.close(self._stderr)

    def _send(self, data: Mapping[str, object]) -> None:
        self._port.write(json.dumps(data) + "\n")
