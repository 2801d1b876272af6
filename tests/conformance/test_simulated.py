"""The simulated kernel agrees with every case, in each version and with each IOMMU model."""

import pytest

from tests.conformance.areas import AREAS
from tests.conformance.machine import SimulatedMachine
from tests.conformance.run import run_case

MODES = [
    ((6, 1), "intel"),
    ((6, 6), "intel"),
    ((6, 12), "intel"),
    ((6, 18), "intel"),
    ((7, 3), "intel"),
    ((6, 1), "amd"),
    ((7, 3), "amd"),
    ((6, 12), "virtio"),
    ((7, 3), "none"),
]


@pytest.fixture(scope="module", params=MODES, ids=lambda mode: f"{mode[0][0]}.{mode[0][1]}-{mode[1]}")
def machine(request: pytest.FixtureRequest) -> SimulatedMachine:
    version, iommu = request.param
    return SimulatedMachine(version, iommu)


@pytest.mark.parametrize("area", AREAS)
def test_area(machine: SimulatedMachine, area: str) -> None:
    trouble = [
        f"{case.name}: {line}"
        for case in AREAS[area]
        if case.runs_on(machine.version, machine.iommu, machine.features)
        for line in run_case(case, machine).trouble
    ]
    assert trouble == []


def test_case_names_are_unique() -> None:
    names = [(area, case.name) for area, cases in AREAS.items() for case in cases]
    assert len(set(names)) == len(names) >= 980
