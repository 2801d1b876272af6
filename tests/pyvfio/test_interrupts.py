"""Interrupts in every order of enabling and disabling, and wherever an exception comes in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio import Container, Device, InterruptIndex, Interrupts, InvalidArgument, VfioError
from pyvfio.abi import vfio
from pyvfio.faults import FaultyKernel, Interrupt
from pyvfio.sim import PciFunction, SimKernel
from pyvfio.sim.devices.e1000e import E1000e

ADDRESS = "0000:05:00.0"


def machine(version: tuple[int, int] = (7, 3)) -> FaultyKernel:
    kernel = SimKernel(version=version)
    kernel.add(PciFunction(ADDRESS, 7, driver="vfio-pci", model=E1000e))
    return FaultyKernel(kernel)


def enable_second(interrupts: Interrupts) -> None:
    interrupts.enable_vector(1)


def disable_first(interrupts: Interrupts) -> None:
    interrupts.disable_vector(0)


KINDS = [InterruptIndex.INTX, InterruptIndex.MSI, InterruptIndex.MSIX, InterruptIndex.ERR, InterruptIndex.REQ]
STEPS: dict[str, tuple[Callable[[Interrupts], object], tuple[InterruptIndex, ...]]] = {
    "enable": (Interrupts.enable, tuple(KINDS)),
    "enable a vector": (enable_second, (InterruptIndex.MSIX,)),
    "disable a vector": (disable_first, tuple(KINDS)),
    "disable": (Interrupts.disable, tuple(KINDS)),
    "unmask event": (Interrupts.unmask_event, (InterruptIndex.INTX,)),
}


@pytest.mark.parametrize("is_made", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("step", "kind"), [(step, kind) for step, (_, kinds) in STEPS.items() for kind in kinds])
def test_after_an_exception_at_any_system_call_everything_can_be_asked_for_again(
    step: str, kind: InterruptIndex, is_made: bool
) -> None:
    act = STEPS[step][0]
    for nth in range(20):
        kernel = machine()
        with Container(kernel=kernel) as container:
            interrupts = container.open_device(ADDRESS).interrupts(kind)
            if step != "enable":
                interrupts.enable()
            kernel.arm(Interrupt(nth, is_made=is_made))
            interrupted = False
            try:
                act(interrupts)
            except KeyboardInterrupt:
                interrupted = True
            kernel.arm()
            if not interrupted:
                assert nth > 0
                break
            interrupts.disable()
            interrupts.enable()
            if kind is InterruptIndex.INTX:
                interrupts.unmask_event().signal()
            interrupts.trigger()
            assert interrupts.wait(0) == 1
    else:
        pytest.fail("it never came to its end")


ORDERS: dict[str, list[Callable[[Interrupts], object]]] = {
    "without its vector": [Interrupts.enable, disable_first],
    "with it again": [Interrupts.enable, disable_first, lambda each: each.enable_vector(0)],
    "by its vector alone": [lambda each: each.enable_vector(0)],
    "and again": [Interrupts.enable, Interrupts.disable, Interrupts.enable],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS.values(), ids=list(ORDERS))
def test_whatever_is_enabled_can_be_disabled(kind: InterruptIndex, order: list[Callable[[Interrupts], object]]) -> None:
    with Container(kernel=machine()) as container:
        interrupts = container.open_device(ADDRESS).interrupts(kind)
        for act in order:
            act(interrupts)
        interrupts.disable()
        interrupts.enable()
        assert interrupts.vectors == (0,)


def test_what_is_advised_for_a_vector_that_is_not_enabled_enables_it() -> None:
    with Container(kernel=machine((6, 1))) as container:
        interrupts = container.open_device(ADDRESS).interrupts(InterruptIndex.MSIX)
        with pytest.raises(InvalidArgument, match=r"Call enable\(\) first"):
            interrupts.wait(0)
        interrupts.enable(2)
        interrupts.disable_vector(0)
        with pytest.raises(InvalidArgument, match=r"Call enable_vector\(0\) first"):
            interrupts.wait(0)
        with pytest.raises(InvalidArgument, match=r"disable\(\), then enable\(4\)"):
            interrupts.wait(0, vector=3)
        with pytest.raises(InvalidArgument, match="The device has 5 of them"):
            interrupts.wait(0, vector=5)


def test_another_object_of_the_same_function_is_named() -> None:
    kernel = machine()
    with Container(kernel=kernel) as container:
        first = container.open_device(ADDRESS)
        assert first.group is not None
        second: Device = container.open_device(ADDRESS)
        first.interrupts(InterruptIndex.MSI).enable()
        with pytest.raises(VfioError, match=r"<Device 0000:05:00.0>, another object of this process"):
            second.interrupts(InterruptIndex.MSIX).enable()
        kernel.arm()
        assert all(call.request != vfio.VFIO_DEVICE_RESET for call in kernel.calls)
