import gc
import itertools
import os

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.support.case_counts",
    "tests.support.hosts",
    "tests.support.thorough",
    "tests.support.vm.plugin",
    "tests.support.watchdog",
    "pytester",
]

# How long an example takes says nothing on a machine that does other work, too. Continuous integration asks the same
# each time: what it finds is of the change that it looks at. Everybody else looks further, each time elsewhere.
settings.register_profile("any time", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("any time")


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def state_directory(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test serves is kept apart from the host's and from other tests'."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path_factory.getbasetemp() / f"state-{next(_numbers)}"))


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What is there now stays to the end: looking at it again and again is an eighth of a session's time."""
    gc.freeze()
    gc.enable()
