import gc
import itertools

import pytest

pytest_plugins = [
    "tests.support.case_counts",
    "tests.support.hosts",
    "tests.support.thorough",
    "tests.support.vm.plugin",
    "tests.support.watchdog",
    "tests.support.outlook",
    "pytester",
]


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
