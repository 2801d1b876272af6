"""Fixtures for pytest: VFIO without an IOMMU, and its failures, for the tests of any project.

A conftest.py asks for them with pytest_plugins = ["pyvfio.testing"]; docs/testing.md has an example. Each test has a
machine of its own. The mark vfio_machine takes any argument of SimKernel and says what the machine is: edu_devices, 2
if it is not given, version, iommu, memlock, ipc_lock, dma_entry_limit, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pytest

from pyvfio.container import Container, IommuType
from pyvfio.device import Device
from pyvfio.drivers.edu import Edu, edu_addresses
from pyvfio.faults import FaultyKernel
from pyvfio.iommufd import Ioas
from pyvfio.kernel import Kernel
from pyvfio.memory import Memory, MemoryKind
from pyvfio.sim import SimKernel

MEMORY_SIZE = 8 << 20

AddressSpaceOfDevices = Container | Ioas

ADDRESS_SPACES: Mapping[str, Callable[[Kernel], AddressSpaceOfDevices]] = {
    "type1v2": lambda kernel: Container(kernel=kernel, iommu_type=IommuType.TYPE1v2),
    "type1": lambda kernel: Container(kernel=kernel, iommu_type=IommuType.TYPE1),
    "iommufd": lambda kernel: Ioas(kernel=kernel),
    "iommufd-compat": lambda kernel: Container(kernel=kernel, path="/dev/iommu"),
}
"""What makes an address space of each kind, by the name in test ids."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vfio_machine(edu_devices=2, **options): the machine behind the fixtures vfio_*")


@pytest.fixture
def vfio_simulated(request: pytest.FixtureRequest) -> SimKernel:
    """The machine, which tells which transfers of devices were stopped, and takes further devices."""
    mark = request.node.get_closest_marker("vfio_machine")
    options = dict(mark.kwargs) if mark else {}
    return SimKernel(**{"edu_devices": 2, "host_huge_pages": False, **options})


@pytest.fixture
def vfio_kernel(vfio_simulated: SimKernel) -> FaultyKernel:
    """The kernel to hand to every object: arm() lets calls fail, and calls tells which were made."""
    return FaultyKernel(vfio_simulated)


@pytest.fixture
def vfio_addresses(vfio_kernel: FaultyKernel) -> list[str]:
    """The PCI addresses of the machine's edu devices, each in a group of its own and bound to vfio-pci."""
    return edu_addresses(vfio_kernel)


@pytest.fixture
def vfio_memory(vfio_kernel: FaultyKernel) -> Iterator[Memory]:
    """Populated memory of MEMORY_SIZE bytes."""
    with Memory.allocate(MemoryKind.ANONYMOUS, MEMORY_SIZE, kernel=vfio_kernel) as memory:
        memory.populate(0, memory.size)
        yield memory


@pytest.fixture(params=ADDRESS_SPACES)
def vfio_address_space(request: pytest.FixtureRequest, vfio_kernel: FaultyKernel) -> Iterator[AddressSpaceOfDevices]:
    """An address space, of every kind in turn: a test that asks for it runs once for each."""
    with ADDRESS_SPACES[request.param](vfio_kernel) as space:
        yield space


@pytest.fixture
def vfio_container(vfio_kernel: FaultyKernel) -> Iterator[Container]:
    """A container that has no device yet."""
    with Container(kernel=vfio_kernel) as container:
        yield container


@pytest.fixture
def vfio_device(vfio_address_space: AddressSpaceOfDevices, vfio_addresses: list[str]) -> Device:
    """The first device, opened in vfio_address_space."""
    return vfio_address_space.open_device(vfio_addresses[0])


@pytest.fixture
def vfio_edu(vfio_device: Device) -> Iterator[Edu]:
    """The driver of vfio_device, which may do DMA."""
    with Edu(vfio_device) as edu:
        yield edu
