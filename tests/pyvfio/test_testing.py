"""pyvfio.testing in projects of their own, beside the one of docs/testing.md, which tests/test_docs.py runs."""

from __future__ import annotations

import pytest


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
