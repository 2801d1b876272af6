"""Tests with the fixture kernel_name run on the simulated kernel here and on real ones in a virtual machine.

One machine boots for each real kernel and runs its tests in one pytest; their reports come back one by one as they are
made and count as this session's own. What a test needs of a kernel it says with a mark, as needs("iommufd", "cdev");
one that says nothing needs "type1". It is not collected for a kernel that has not all of it. Tests of the machine have
the fixture vm_kernel, and are collected if there is any real kernel to test on.
"""

from __future__ import annotations

import os

import pytest
from vmlib.hardware import IOMMUS
from vmlib.kernels import KERNELS

from tests.support.vm.guest import Guest
from tests.support.vm.host import Host
from tests.support.vm.target import FEATURES, GUEST_TARGET, SIMULATED, TARGETS, chosen, features


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--messages", type=int, default=4_000, help="how many a hostile front end sends: 100000 in full")
    parser.addoption("--seed", type=int, default=14, help="of what a hostile front end does")
    group = parser.getgroup("kernels")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        choices=[SIMULATED, *KERNELS],
        help="kernels to test on (default: simulated, stock, and the built ones if they are in the cache)",
    )
    group.addoption(
        "--iommu", action="append", default=[], choices=[*IOMMUS], help="IOMMU models of the machine (default: intel)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "needs(*features): run only on kernels that have them all, see tests/support/vm/target.py"
    )
    config.pluginmanager.register(Guest(config) if GUEST_TARGET in os.environ else Host())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel_name" in metafunc.fixturenames:
        metafunc.parametrize("kernel_name", _names(metafunc.config), scope="session")
    if "vm_kernel" in metafunc.fixturenames:
        metafunc.parametrize("vm_kernel", [_vm_kernel(metafunc.config)], scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if _can_run(item)]


def _names(config: pytest.Config) -> list[str]:
    if guest := os.environ.get(GUEST_TARGET):
        return [guest]
    return chosen(config.getoption("kernel"), config.getoption("iommu"), required=bool(os.environ.get("CI")))


def _vm_kernel(config: pytest.Config) -> str | None:
    """The kernel for tests of the machine itself: of those to test on, the one that boots soonest."""
    kernels = [TARGETS[name].kernel for name in _names(config) if name != SIMULATED]
    return "built" if "built" in kernels else next(iter(kernels), None)


def _can_run(item: pytest.Item) -> bool:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if "kernel_name" not in params:
        return params.get("vm_kernel", "any") is not None
    needs = {feature for mark in item.iter_markers("needs") for feature in mark.args} or {"type1"}
    if unknown := needs - FEATURES:
        raise pytest.UsageError(f"{item.nodeid} needs {', '.join(unknown)}, which no kernel has")
    return needs <= features(str(params["kernel_name"]))
