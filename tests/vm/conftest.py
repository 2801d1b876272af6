"""tools/vm as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from vmlib.errors import Unavailable
from vmlib.kernels import image
from vmlib.machine import check_qemu

from tests.support.vm.start import ROOT, Start


@pytest.fixture
def start(vm_kernel: str, tmp_path: Path) -> Start:
    """Starts tools/vm with arguments, on the kernel of this session."""
    try:
        check_qemu()
        image(vm_kernel)
    except Unavailable as error:
        if os.environ.get("CI"):
            pytest.fail(f"a virtual machine is required here: {error}")
        pytest.skip(f"no virtual machine: {error}")

    def start(*arguments: str) -> subprocess.Popen[str]:
        # Also where this session ignores Ctrl-C, as one in the background does.
        command = ["env", "--default-signal=INT", sys.executable, f"{ROOT}/tools/vm", "--kernel", vm_kernel, *arguments]
        environment = {**os.environ, "TMPDIR": str(tmp_path)}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def vm(start: Start) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs tools/vm with arguments to its end."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        with start(*arguments) as process:
            output, errors = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    return run
