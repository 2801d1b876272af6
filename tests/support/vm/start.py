"""How a test is handed tools/vm."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

Start = Callable[..., subprocess.Popen[str]]
