"""Checks of the modules of VFIO."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pyvfio.host.doctor.boot import boot_arguments
from pyvfio.host.doctor.build import Build, ModuleState
from pyvfio.host.doctor.check import Check, Status
from pyvfio.host.doctor.nodes import ABSENT, CONTAINER, IOMMUFD, failure_to_open, how_to_pass_in
from pyvfio.host.doctor.surroundings import is_container
from pyvfio.kernel import Kernel, exists

_OPTIONS = {
    "vfio": "CONFIG_VFIO",
    "vfio_iommu_type1": "CONFIG_VFIO_IOMMU_TYPE1",
    "vfio_pci": "CONFIG_VFIO_PCI",
}
_BROUGHT = "it comes with vfio-pci"


def check_modules(kernel: Kernel) -> Iterator[Check]:
    """Whether the kernel has containers, type1 and vfio-pci, as modules that are loaded, built in or loadable."""
    build = Build(kernel)
    has_driver = exists(kernel, "/sys/bus/pci/drivers/vfio-pci")
    has_node = failure_to_open(kernel, CONTAINER) not in ABSENT
    # What is there needs no configuration to prove it.
    if not (has_driver or has_node) and build.module("vfio", _OPTIONS["vfio"]) is ModuleState.NOT_BUILT:
        yield from _without_vfio()
        return
    # A kernel may have iommufd alone: then only programs that need a container have a problem.
    missing = Status.WARN if failure_to_open(kernel, IOMMUFD) is None else Status.FAIL
    will_come = not has_driver and build.module("vfio_pci", _OPTIONS["vfio_pci"]) in _LOADABLE
    yield _check_vfio(kernel, build, missing, has_driver=has_driver, will_come=will_come)
    if exists(kernel, "/sys/module/vfio_iommu_type1"):
        yield Check("type1", Status.OK, "vfio_iommu_type1 is there")
    elif build.option("CONFIG_IOMMUFD_VFIO_CONTAINER") == "y":
        yield Check("type1", Status.OK, "containers are iommufd's (CONFIG_IOMMUFD_VFIO_CONTAINER)")
    else:
        yield _absent(kernel, build, "type1", "vfio_iommu_type1", missing, will_come=will_come)
    if has_driver:
        yield Check("vfio-pci", Status.OK, "the driver is there")
    else:
        yield _absent(kernel, build, "vfio-pci", "vfio_pci", Status.FAIL, will_come=False)


def _without_vfio() -> Iterator[Check]:
    """The checks of a kernel that was built without VFIO."""
    options = ", ".join(_OPTIONS.values())
    found = f"this kernel was built without it ({_OPTIONS['vfio']} is not set)"
    yield Check("vfio", Status.FAIL, found, f"take a kernel with {options}; no modprobe brings it")
    for name in ("type1", "vfio-pci"):
        yield Check(name, Status.SKIP, "not there: follows from the kernel without VFIO")


_LOADABLE = (ModuleState.LOADABLE, ModuleState.UNKNOWN)


def _check_vfio(kernel: Kernel, build: Build, missing: Status, *, has_driver: bool, will_come: bool) -> Check:
    """Whether this user may open the container's node. missing, will_come: as for _absent()."""
    failure = failure_to_open(kernel, CONTAINER)
    if failure is None:
        return Check("vfio", Status.OK, f"{CONTAINER} can be opened")
    if failure not in ABSENT:
        fix = f"as root: chmod 0666 {CONTAINER} (it gives no rights to devices)"
        if os.geteuid() == 0:
            fix = f"this container's device rules do not allow it: {how_to_pass_in(kernel, CONTAINER)}"
        return Check("vfio", Status.FAIL, f"{CONTAINER}: {os.strerror(failure)}", fix)
    if not has_driver and build.module("vfio", _OPTIONS["vfio"]) is not ModuleState.LOADED:
        return _absent(kernel, build, "vfio", "vfio", missing, will_come=will_come)
    if build.option("CONFIG_VFIO_GROUP") == "n" or build.option("CONFIG_VFIO_CONTAINER") == "n":
        found = f"no {CONTAINER}: this kernel was built without containers"
        fix = "use iommufd, which this kernel has in their place"
        return Check("vfio", missing, found, fix)
    found = f"no {CONTAINER} here, though the kernel has it"
    return Check("vfio", missing, found, how_to_pass_in(kernel, CONTAINER))


def _forbidden(kernel: Kernel, module: str) -> str:
    """The argument of the command line that keeps the kernel from loading a module; "" for none.

    Source: kernel/module/main.c, blacklisted.
    """
    arguments = (each for each in boot_arguments(kernel) if each[0] == "module_blacklist")
    return next((f"{name}={value}" for name, value in arguments if module in value.split(",")), "")


def _absent(kernel: Kernel, build: Build, name: str, module: str, missing: Status, *, will_come: bool) -> Check:
    """The check of a module that is not there.

    missing: how bad that is. will_come: whether loading vfio-pci, whose check has the fix, loads it too.
    """
    option = _OPTIONS[module]
    state = build.module(module, option)
    argument = _forbidden(kernel, module)
    if argument and state is not ModuleState.NOT_BUILT:
        found = f"not loaded, and the command line forbids it ({argument})"
        return Check(name, missing, found, f"boot without {module} in module_blacklist=")
    match state:
        case ModuleState.NOT_BUILT:
            found = f"this kernel was built without it ({option} is not set)"
            return Check(name, missing, found, f"take a kernel with {option}; no modprobe brings it")
        case ModuleState.NO_MODULES if not is_container(kernel):
            found = f"not loaded, and the modules of this kernel, {build.release}, are not on disk"
            return Check(name, missing, found, "boot the kernel that is installed, or install the modules of this one")
    if will_come:
        return Check(name, Status.SKIP, f"not loaded: {_BROUGHT}")
    where = "as root, outside this container" if is_container(kernel) else "as root"
    spelled = module.replace("vfio_pci", "vfio-pci")
    return Check(name, missing, "not loaded", f"{where}: modprobe {spelled}")
