"""Real kernels agree with every case and with the simulated one, also in random sequences of calls."""

from __future__ import annotations

import functools
import os

import pytest
from vmlib.errors import Unavailable

from tests.conformance.areas import AREAS
from tests.conformance.guest import report_from
from tests.conformance.report import RANDOM, Report, Subject
from tests.conformance.sequence import has_sequences
from tests.support.vm.target import SIMULATED, TARGETS, Target, chosen

SEQUENCES = 20


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "report" in metafunc.fixturenames:
        option = metafunc.config.option
        names = chosen(option.kernel, option.iommu, required=bool(os.environ.get("CI")))
        fit = [name for name in names if name != SIMULATED and _has_containers(TARGETS[name])]
        metafunc.parametrize("report", fit or [None], indirect=True, scope="module")


def _has_containers(target: Target) -> bool:
    """With an IOMMU behind them, or without where that is meant to be."""
    return bool(target.features & {"type1", "compat", "noiommu"})


@functools.cache
def _report(name: str) -> Report:
    kernel, _, iommu = name.rpartition("-")
    return report_from(kernel, iommu, ["--sequences", str(SEQUENCES)])


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Report:
    try:
        return _report(request.param)
    except Unavailable as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no real kernel: {error}")


def expected_count(area: str, subject: Subject) -> int:
    """Cases for what the subject has, or all random sequences."""
    features = frozenset(subject.features)
    if area == RANDOM:
        return SEQUENCES if has_sequences(features) else 0
    return sum(case.runs_on(subject.version, subject.iommu, features) for case in AREAS[area])


@pytest.mark.parametrize("area", [*AREAS, RANDOM])
def test_area(report: Report, area: str) -> None:
    assert report.count(area) == expected_count(area, report.subject)
    assert [str(finding) for finding in report.troubled(area)] == []
