"""What plan says of a host."""

from __future__ import annotations

import json
from typing import Any

from tests.support.hosts import FakeHost, Ran
from tests.support.schemas import checked

GIB = 1 << 30


def plan(host: FakeHost, *arguments: str) -> Ran:
    return host.run("plan", "--no-measure", "--memlock", "unlimited", *arguments, program="virtiomem")


def rows(host: FakeHost, *arguments: str) -> dict[str, Any]:
    data = checked("virtiomem-plan", json.loads(plan(host, "--json", *arguments).out))
    assert isinstance(data, dict)
    return {row["limit"]: row for row in data["limits"]}
