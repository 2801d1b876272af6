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
    ((7, 3), "intel", "compat"),
]


def _name(mode: tuple[tuple[int, int], str]) -> str:
    (major, minor), *rest = mode
    return "-".join((f"{major}.{minor}", *rest))


@pytest.fixture(scope="module", params=MODES, ids=_name)
def machine(request: pytest.FixtureRequest) -> SimulatedMachine:
    version, iommu, *container = request.param
    return SimulatedMachine(version, iommu, iommufd_container=bool(container))


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
    assert len(set(names)) == len(names) >= 1700
