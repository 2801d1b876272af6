"""docs/kernel-interface.md as data: what it claims of each ioctl and each feature."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/kernel-interface.md"


@dataclass(frozen=True, slots=True)
class Row:
    """kernels: "every", "built" or "-". test: a function of tests/every_kernel, with a pattern of its parameters;
    None where no real kernel has been asked."""

    name: str
    made_by: tuple[str, ...]
    kernels: str
    test: str | None

    def is_proved_by(self, test: str, kernel_name: str) -> bool:
        """Whether this test, by its name with parameters, has to make the call on this kernel."""
        if self.test is None or (self.kernels == "built" and not kernel_name.startswith("built")):
            return False
        pattern = re.escape(self.test).replace(r"\*", ".*")
        return re.fullmatch(pattern if "[" in self.test else rf"{pattern}(\[.*\])?", test) is not None


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and (name := re.fullmatch(r"`(\w+)`", cells[0])):
            test = re.fullmatch(r"`(test_\S+)`", cells[3])
            made_by = tuple(re.findall(r"`([\w.]+)", cells[1]))
            found.append(Row(name[1], made_by, cells[2], test[1] if test else None))
    return found
