"""Which cases a host that people work on is asked, and what the report says."""

from __future__ import annotations

import pytest

from tests.conformance.areas import AREAS
from tests.conformance.judge import Judgement, Verdict, report
from tests.conformance.live import is_safe, why_not
from tests.conformance.sequence import CALLS_PER_SEQUENCE, sequence, setup


def test_nothing_that_is_asked_reaches_beyond_the_process_and_the_one_device() -> None:
    asked = [case for cases in AREAS.values() for case in cases if not why_not(case, has_device=True)]
    names = {step.name for case in asked for step in (*case.setup, case.call, *(step for step, _ in case.after))}
    assert not names & {"set_type1_parameter", "unbind_driver", "add_virtual", "write_region", "reset", "hot_reset"}
    devices = {
        step.arguments.get("device", "0")
        for case in asked
        for step in (*case.setup, case.call, *(step for step, _ in case.after))
    }
    assert devices == {"0"}
    assert len(asked) > 600


def test_without_a_device_none_is_opened() -> None:
    asked = [case for cases in AREAS.values() for case in cases if not why_not(case, has_device=False)]
    names = {step.name for case in asked for step in (*case.setup, case.call, *(step for step, _ in case.after))}
    assert not names & {"open_group", "get_device_fd", "open_node", "bind"}
    assert len(asked) > 50


@pytest.mark.parametrize(
    ("area", "reason"),
    [
        ("mdev", "it needs another device in another group"),
        ("regions", "it is about a device that the virtual machine has"),
        ("vf-token", "it makes a virtual function"),
        ("map", "it needs a device: name one that is bound to VFIO and idle, with --device"),
    ],
)
def test_what_is_not_asked_has_a_reason(area: str, reason: str) -> None:
    assert reason in {why_not(case, has_device=False) for case in AREAS[area]}


def test_random_sequences_that_set_a_limit_for_everybody_are_left_out() -> None:
    safe = [is_safe([*setup(seed), *sequence(seed, CALLS_PER_SEQUENCE)]) for seed in range(1, 41)]
    assert 0 < sum(safe) < len(safe)


def test_the_report_says_what_agrees_differs_and_was_not_asked() -> None:
    judgements = [
        Judgement("map", "one", Verdict.AGREES),
        Judgement("map", "two", Verdict.DIFFERS, ["real EINVAL, simulated ENOMEM"]),
        Judgement("info", "three", Verdict.HARDWARE, ["real 1, simulated 2"]),
        Judgement("info", "four", Verdict.NOT_ASKED, ["it makes a virtual function"]),
    ]
    text = "\n".join(report({"kernel": "6.1", "iommus": ["dmar0"], "device": None}, judgements))
    assert "kernel        6.1\niommus        dmar0\ndevice        none\n" in text
    assert "\nmap                    1       1         0          0\n" in text
    assert "\nall                    1       1         1          1\n" in text
    assert "What differs:\n  map: two\n    real EINVAL, simulated ENOMEM" in text
    assert "      1  it makes a virtual function" in text


def test_a_device_with_virtual_functions_takes_tokens() -> None:
    (case,) = (case for case in AREAS["group"] if case.name == "a token for a device without")
    assert not why_not(case, has_device=True)
    assert why_not(case, has_device=True, has_functions=True).endswith("no virtual functions")
