"""The metrics of managed devices, in Prometheus' text format, version 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from virtiomem.control.managed import ManagedDevice
from virtiomem.control.status import DeviceStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Sample:
    labels: Mapping[str, str]
    value: int


_FAMILIES: Mapping[str, tuple[str, str]] = {
    "virtiomem_region_bytes": ("gauge", "Size of the region."),
    "virtiomem_block_bytes": ("gauge", "Size of a block."),
    "virtiomem_usable_bytes": ("gauge", "How much of the region the guest may use."),
    "virtiomem_plugged_bytes": ("gauge", "How much is plugged."),
    "virtiomem_requested_bytes": ("gauge", "How much the guest is asked to have plugged."),
    "virtiomem_mappings": ("gauge", "DMA mappings an address space holds."),
    "virtiomem_mappings_left": ("gauge", "DMA mappings an address space would still take."),
    "virtiomem_diverged_listeners": ("gauge", "Listeners that hold something else than is plugged."),
    "virtiomem_broken": ("gauge", "1 while the guest has broken the protocol and not reset the device."),
    "virtiomem_migrating": ("gauge", "1 while the virtual machine migrates, and no block changes."),
    "virtiomem_requests_total": ("counter", "Guest requests by type and response."),
    "virtiomem_refusals_total": ("counter", "Requests answered ERROR, NACK or BUSY, by reason."),
    "virtiomem_violations_total": ("counter", "Requests that broke the protocol."),
    "virtiomem_stray_bytes_total": ("counter", "Bytes of unplugged blocks that were touched, and given back."),
    "virtiomem_failures_to_tell_total": ("counter", "Events and listeners that failed when told of a change."),
}


def metrics(devices: Iterable[ManagedDevice]) -> str:
    """The text of all metrics: the families in a fixed order, with a sample for each device and label."""
    samples: dict[str, list[_Sample]] = {name: [] for name in _FAMILIES}
    for managed in devices:
        for name, labels, value in _samples(managed):
            samples[name].append(_Sample({"device": managed.name} | labels, value))
    return "".join(line for name in _FAMILIES for line in _family(name, samples[name]))


def _samples(managed: ManagedDevice) -> Iterator[tuple[str, dict[str, str], int]]:
    status, statistics = DeviceStatus.of(managed), managed.device.statistics
    yield "virtiomem_region_bytes", {}, status.region_size
    yield "virtiomem_block_bytes", {}, status.block_size
    yield "virtiomem_usable_bytes", {}, status.usable_size
    yield "virtiomem_plugged_bytes", {}, status.plugged_size
    yield "virtiomem_requested_bytes", {}, status.requested_size
    yield "virtiomem_diverged_listeners", {}, len(status.divergences)
    yield "virtiomem_broken", {}, int(status.broken)
    yield "virtiomem_migrating", {}, int(status.migrating)
    yield "virtiomem_violations_total", {}, statistics.violations
    yield "virtiomem_failures_to_tell_total", {}, statistics.failures_to_tell
    yield "virtiomem_stray_bytes_total", {}, statistics.stray_bytes
    for space in status.address_spaces:
        yield "virtiomem_mappings", {"space": space.name}, space.mappings
        if space.mappings_left is not None:
            yield "virtiomem_mappings_left", {"space": space.name}, space.mappings_left
    for (request, response), count in sorted(statistics.responses.items()):
        yield "virtiomem_requests_total", {"request": request.name, "response": response.name}, count
    for reason, count in sorted(statistics.refusals.items(), key=lambda item: (item[0].response, item[0].value)):
        yield "virtiomem_refusals_total", {"response": reason.response.name, "reason": reason.value}, count


def _family(name: str, samples: Iterable[_Sample]) -> Iterator[str]:
    kind, help_text = _FAMILIES[name]
    yield f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"
    for sample in samples:
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
        yield f"{name}{{{labels}}} {sample.value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
