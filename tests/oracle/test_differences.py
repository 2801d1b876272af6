"""The table of differences on purpose; the examples that prove each are in test_requests.py and test_mappings.py."""

from __future__ import annotations

from tests.oracle.differences import IN_ANSWERS, IN_MAPPINGS, Difference, documented


def test_every_difference_on_purpose_is_documented_and_proved() -> None:
    assert documented() == [difference.value for difference in Difference]
    assert [*IN_ANSWERS, *IN_MAPPINGS] == [*Difference]
