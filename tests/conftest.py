import gc

from hypothesis import settings

pytest_plugins = [
    "tests.support.case_counts",
    "tests.support.hosts",
    "tests.support.vm.plugin",
    "tests.support.watchdog",
    "pytester",
]

# How long an example takes says nothing on a machine that does other work, too.
settings.register_profile("any time", deadline=None)
settings.load_profile("any time")


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What is there now stays to the end: looking at it again and again is an eighth of a session's time."""
    gc.freeze()
    gc.enable()
