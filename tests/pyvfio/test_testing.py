"""pyvfio.testing in a project of its own: the one of docs/testing.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/testing.md"


def files_of_the_document() -> dict[str, str]:
    """Its blocks of Python, by the file that each begins with the name of."""
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return dict(blocks)


def test_the_document_is_a_project_that_passes(pytester: pytest.Pytester) -> None:
    files = files_of_the_document()
    assert list(files) == ["bounce.py", "conftest.py", "test_bounce.py", "test_successor.py"]
    for name, text in files.items():
        pytester.path.joinpath(name).write_text(text)
    result = pytester.runpytest_inprocess("-q", "--strict-markers", "-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=14)


def test_the_mark_makes_the_machine(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['pyvfio.testing']")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.vfio_machine(edu_devices=3)
        def test_devices(vfio_addresses):
            assert len(vfio_addresses) == 3

        @pytest.mark.vfio_machine(dma_entry_limit=7, version=(7, 0))
        def test_options(vfio_simulated):
            assert (vfio_simulated.dma_entry_limit, vfio_simulated.version) == (7, (7, 0))

        def test_none(vfio_addresses):
            assert len(vfio_addresses) == 2
        """
    )
    pytester.runpytest_inprocess("-q", "-p", "no:cacheprovider").assert_outcomes(passed=3)
