"""The same machine twice: a kernel, simulated or real, with edu devices bound to vfio-pci."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from pyvfio import Container, Device, DeviceNotBound, Ioas, Kernel, LinuxKernel, Memory, MemoryKind
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.drivers.iommufd_mock import MockDevice
from pyvfio.host import bind, restore
from pyvfio.sim import SimKernel
from tests.support.interface import rows
from tests.support.kernels.calls import recorded
from tests.support.kernels.modes import MODES, Mode, Space
from tests.support.kernels.testbed import MEBIBYTE, Testbed, populated


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "mode" in metafunc.fixturenames:
        modes = [pytest.param(mode, id=mode.name, marks=pytest.mark.needs(*mode.needs)) for mode in MODES]
        metafunc.parametrize("mode", modes)


@pytest.fixture(autouse=True)
def _proves_what_the_docs_say(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that docs/kernel-interface.md names for a call has to make it, if the kernel is a real one."""
    kernel_name = request.node.callspec.params.get("kernel_name") if hasattr(request.node, "callspec") else None
    claimed = {row.name for row in rows() if kernel_name and row.is_proved_by(request.node.name, kernel_name)}
    if not claimed or kernel_name == "simulated":
        yield
        return
    with recorded() as made:
        yield
    assert claimed <= made, f"docs/kernel-interface.md says that this test makes {claimed - made}"


@pytest.fixture
def testbed(kernel_name: str, request: pytest.FixtureRequest) -> Iterator[Testbed]:
    if kernel_name == "simulated":
        mode = request.node.callspec.params.get("mode")
        provides = mode is not None and "compat" in mode.needs
        simulated = SimKernel(edu_devices=3, host_huge_pages=False, iommufd_container=provides)
        yield Testbed(simulated, edu_addresses(simulated))
        return
    with ExitStack() as stack:
        kernel, devices = LinuxKernel(), []
        for address in edu_addresses(kernel):
            # A virtual IOMMU may not cover all, and the kernel finds out only when a driver takes them.
            with suppress(DeviceNotBound):
                stack.callback(restore, kernel, bind(kernel, address))
                devices.append(address)
        yield Testbed(kernel, devices)


@pytest.fixture
def kernel(testbed: Testbed) -> Kernel:
    return testbed.kernel


@pytest.fixture
def mock_kernel(kernel_name: str) -> Kernel:
    """A kernel with iommufd's test devices, which need neither hardware nor an IOMMU."""
    if kernel_name == "simulated":
        return SimKernel(version=(7, 3), iommufd_test=True)
    return LinuxKernel()


@pytest.fixture
def mock_ioas(mock_kernel: Kernel) -> Iterator[Ioas]:
    with Ioas(kernel=mock_kernel) as ioas:
        yield ioas


@pytest.fixture
def mock_device(mock_ioas: Ioas) -> MockDevice:
    """Attached to mock_ioas."""
    return MockDevice(mock_ioas)


@pytest.fixture
def mock_memory(mock_kernel: Kernel) -> Iterator[Memory]:
    """One MiB of 4 KiB pages, populated."""
    with populated(mock_kernel, MemoryKind.ANONYMOUS, MEBIBYTE) as memory:
        yield memory


@pytest.fixture
def container(testbed: Testbed) -> Iterator[Container]:
    """With the first device's group in it."""
    with Container(kernel=testbed.kernel) as container:
        container.open_device(testbed.devices[0])
        yield container


@pytest.fixture
def engine(container: Container, testbed: Testbed) -> Iterator[Edu]:
    """The first device, able to do DMA."""
    with Edu(container.open_device(testbed.devices[0])) as engine:
        yield engine


@pytest.fixture
def attached(mode: Mode, testbed: Testbed) -> Iterator[tuple[Space, Device]]:
    """An address space of the mode, and the first device in it."""
    with mode.open(testbed.kernel) as space:
        yield space, space.open_device(testbed.devices[0])


@pytest.fixture
def space(attached: tuple[Space, Device]) -> Space:
    return attached[0]


@pytest.fixture
def edu(attached: tuple[Space, Device]) -> Iterator[Edu]:
    """The device of the space, able to do DMA."""
    with Edu(attached[1]) as edu:
        yield edu


@pytest.fixture
def memory(kernel: Kernel) -> Iterator[Memory]:
    """Eight MiB of 4 KiB pages, populated."""
    with Memory.allocate(MemoryKind.ANONYMOUS, 8 * MEBIBYTE, kernel=kernel) as memory:
        memory.populate(0, memory.size)
        yield memory
