"""The statistics of a managed device, as they go over the control socket."""

from __future__ import annotations

from virtiomem.control.managed import ManagedDevice


def statistics_data(managed: ManagedDevice) -> dict[str, object]:
    """The statistics as JSON values. They count from when the device was made."""
    statistics = managed.device.statistics
    return {
        "name": managed.name,
        "responses": [
            {"request": request.name, "response": response.name, "count": count}
            for (request, response), count in sorted(statistics.responses.items())
        ],
        "refusals": [
            {"response": reason.response.name, "reason": reason.value, "count": count}
            for reason, count in statistics.refusals.items()
        ],
        "violations": statistics.violations,
        "failures_to_tell": statistics.failures_to_tell,
        "stray_bytes": statistics.stray_bytes,
        "dma": None if managed.dma_counts is None else dict(managed.dma_counts()),
    }
