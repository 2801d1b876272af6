"""tools/judge on a real kernel, as on a host that people work on."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pyvfio import LinuxKernel
from pyvfio.drivers.edu import edu_addresses
from pyvfio.host import bind, restore
from pyvfio.host.binding import binding
from pyvfio.kernel import memlock, names_in, text_or_empty
from tests.conformance.judge import main

pytestmark = pytest.mark.needs("type1")

AREAS = ["--area", "container", "--area", "map", "--area", "group", "--area", "random"]
PARAMETERS = "/sys/module/vfio_iommu_type1/parameters"


def test_judge(kernel_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if kernel_name == "simulated":
        assert main(["--device", "0000:ff:1f.7"]) == 2
        assert capsys.readouterr().err.startswith("tools/judge: ")
        return
    kernel = LinuxKernel()
    address = edu_addresses(kernel)[0]
    assert main(["--device", address, *AREAS]) == 2
    assert f"{address} is not bound to VFIO" in capsys.readouterr().err
    before = bind(kernel, address)
    bound = binding(kernel, address)
    settings = {name: text_or_empty(kernel, f"{PARAMETERS}/{name}") for name in names_in(kernel, PARAMETERS)}
    try:
        assert main(["--device", address, "--json", "--sequences", "3", *AREAS]) == 0
        found = json.loads(capsys.readouterr().out)
        verdicts = Counter(each["verdict"] for each in found["judgements"])
        assert verdicts["differs"] == 0
        assert verdicts["agrees"] > 150
        assert found["device"].startswith(f"{address} 1234:11e8")
        assert binding(kernel, address) == bound
        assert settings == {name: text_or_empty(kernel, f"{PARAMETERS}/{name}") for name in settings}
        assert memlock(kernel).charged == 0
    finally:
        restore(kernel, before)
