"""virtiomem stats"""

from __future__ import annotations

import argparse
from typing import Any

from pyvfio.commandline import Command, Output
from virtiomem.cli.manager import add_manager, connect


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prometheus", action="store_true", help="metrics in Prometheus' text format instead")
    add_manager(parser)


def _run(options: argparse.Namespace, output: Output) -> int:
    with connect(options) as client:
        if options.prometheus:
            output.text(str(client.request("metrics")["text"]).rstrip("\n"))
            return 0
        result: dict[str, Any] = client.request("stats")
    output.data(result)
    output.text(f"up {result['uptime_seconds']:.0f} s")
    for device in result["devices"]:
        rows = [("REQUEST", "RESPONSE", "COUNT")]
        rows += [(each["request"], each["response"], str(each["count"])) for each in device["responses"]]
        output.text(f"{device['name']}: {device['violations']} protocol violations")
        output.table(rows)
        if refusals := device["refusals"]:
            refused = [("REFUSED", "REASON", "COUNT")]
            refused += [(each["response"], each["reason"], str(each["count"])) for each in refusals]
            output.table(refused)
        if dma := device["dma"]:
            output.text(
                f"dma: {dma['transfers']} transfers, {dma['verified_bytes']} bytes verified, "
                f"{dma['raced']} raced with an unplug, {dma['mismatches']} mismatches"
            )
    return 0


COMMAND = Command(
    "stats",
    "what a running manager has counted: requests, answers, refusals, DMA",
    _run,
    _configure,
    examples=(
        ("virtiomem stats", "for people"),
        ("virtiomem stats --prometheus", "for a scraper"),
    ),
)
