"""All tests that need no virtual machine, under the newest Python that Debian has."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from vmlib.errors import Unavailable
from vmlib.python import ROOT, recent_python

LIMIT = 900
"""Seconds: half a minute on two idle processors."""


def test_the_tests_pass_under_the_newest_python() -> None:
    if os.environ.get("CI") != "true":
        pytest.skip("a part of continuous integration: make test-python runs it anywhere")
    try:
        python, environment = recent_python()
    except Unavailable as error:
        pytest.fail(f"the newest Python is required here: {error}")
    command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-q", "--kernel", "simulated", "-n", "2"]
    environment.pop("CI")
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert re.search(r"\b\d{4,} passed", ended.stdout), ended.stdout[-2000:]
