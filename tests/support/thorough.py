"""How much a session does of what is exhaustive: all of it where CI is set, and some of it in the everyday loop."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings


def is_thorough() -> bool:
    return bool(os.environ.get("CI"))


def stride(everyday: int) -> int:
    """The step through cases that are all alike, such as every bytecode of a call; everyday: a prime number."""
    return 1 if is_thorough() else everyday


def examples(all_of_them: int) -> int:
    """How many examples Hypothesis makes up."""
    return all_of_them if is_thorough() else all_of_them // 4


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: seconds of work, and a part of continuous integration only: CI=true")
    # How long an example takes says nothing on a machine that does other work, too. Continuous integration asks the
    # same each time: what it finds is of the change that it looks at. Everybody else looks elsewhere each time.
    settings.register_profile("any time", deadline=None, derandomize=is_thorough(), max_examples=examples(100))
    settings.load_profile("any time")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("thorough") and not is_thorough():
        pytest.skip("takes seconds, a part of continuous integration: CI=true")
