"""The table of differences on purpose, and the examples that prove each."""

from __future__ import annotations

from tests.oracle import test_mappings, test_requests
from tests.oracle.differences import Difference, documented


def test_every_difference_on_purpose_is_documented_and_proved() -> None:
    assert documented() == [difference.value for difference in Difference]
    assert [*test_requests.EXAMPLES, *test_mappings.EXAMPLES] == [*Difference]
