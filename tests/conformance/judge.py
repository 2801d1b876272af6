"""tools/judge: compare this host's own kernel with the simulated kernel of its version, in a report for a bug."""

from __future__ import annotations

import argparse
import datetime
import enum
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyvfio import LinuxKernel, __version__
from pyvfio.commandline import Failure, Output
from pyvfio.host import inventory
from pyvfio.host.host import Host
from pyvfio.kernel import names_in, text_or_empty
from pyvfio.sysfs import named_device
from tests.conformance.areas import AREAS
from tests.conformance.case import Case
from tests.conformance.live import LiveMachine, idle_device, is_safe, why_not
from tests.conformance.machine import Edu, SimulatedMachine
from tests.conformance.report import RANDOM
from tests.conformance.run import run_case
from tests.conformance.sequence import CALLS_PER_SEQUENCE, compare, has_sequences, sequence, setup
from tests.conformance.step import Reply

_HARDWARE = ("iova_pgsizes", "chain", "argsz", "cap_offset", "ranges", "num_iovas", "alignment", "out_data_type",
             "out_capabilities", "data_len", "data")  # fmt: skip
"""Fields in which IOMMUs differ while the kernel's answer is the same."""


class Verdict(enum.StrEnum):
    """How the kernel's answers to a case compare with those of the simulated kernel."""

    AGREES = "agrees"
    """They are the same, and as the case expects."""
    DIFFERS = "differs"
    """They differ, or one of the kernels does not answer as the case expects."""
    HARDWARE = "hardware"
    """They differ only in what the IOMMU is: its page sizes, its addresses."""
    NOT_ASKED = "not asked"
    """The case is not safe on a host that is in use, or is not for this host."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of one case.

    area: the area that the case is of. name: the case. verdict: how the answers compare. lines: how they differ, or why
    the case was not asked.
    """

    area: str
    name: str
    verdict: Verdict
    lines: Sequence[str] = ()


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", metavar="BDF", help="the device that cases may open, which resets it; default: none"
    )
    parser.add_argument("--area", action="append", choices=[*AREAS, RANDOM], help="only this one; may be repeated")
    parser.add_argument(
        "--sequences", type=int, default=10, metavar="N", help="random sequences (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--json", action="store_true", help="print the report as data")


def _run(options: argparse.Namespace, output: Output) -> int:
    if os.geteuid() != 0:
        raise Failure("run it as root: the cases set limits of their own process, and open what root may open")
    kernel = LinuxKernel()
    device = idle_device(kernel, options.device) if options.device else None
    real = LiveMachine(kernel, device)
    if not real.features & {"type1", "compat", "iommufd"}:
        raise Failure("there is no VFIO to ask here; pyvfio doctor says what is missing")
    simulated = SimulatedMachine(
        real.version,
        real.iommu,
        remaps_interrupts="remapping" in real.features,
        iommufd="iommufd" in real.features,
        iommufd_container="compat" in real.features,
    )
    if device is not None:
        print(f"note: cases open {device.address}, which resets it", file=sys.stderr)
    judgements = []
    for judgement in _judgements(options, real, simulated):
        judgements.append(judgement)
        if output.terminal:
            print(f"\r{len(judgements)} cases", end="", file=sys.stderr, flush=True)
    if output.terminal:
        print("\r", end="", file=sys.stderr)
    facts = _facts(kernel, real, device)
    text = "\n".join(report(facts, judgements))
    if options.output:
        options.output.write_text(text + "\n")
    output.data({**facts, "judgements": [asdict(each) for each in judgements]})
    output.text(text)
    return int(any(each.verdict is Verdict.DIFFERS for each in judgements))


def _judgements(options: argparse.Namespace, real: LiveMachine, simulated: SimulatedMachine) -> Iterator[Judgement]:
    chosen = options.area or [*AREAS, RANDOM]
    for area in AREAS:
        for case in AREAS[area] if area in chosen else ():
            yield _judge(area, case, real, simulated)
    if RANDOM not in chosen or not has_sequences(real.features):
        return
    for seed in range(1, options.sequences + 1):
        name = f"seed {seed}"
        if not real.edus:
            yield Judgement(RANDOM, name, Verdict.NOT_ASKED, ["it needs a device: name one with --device"])
        elif not is_safe([*setup(seed), *sequence(seed, CALLS_PER_SEQUENCE)]):
            yield Judgement(RANDOM, name, Verdict.NOT_ASKED, ["it changes a parameter of a module, for every program"])
        else:
            lines = compare(seed, CALLS_PER_SEQUENCE, real, simulated)
            yield Judgement(RANDOM, name, Verdict.DIFFERS if lines else Verdict.AGREES, lines)


def _judge(area: str, case: Case, real: LiveMachine, simulated: SimulatedMachine) -> Judgement:
    reason = why_not(case, has_device=bool(real.edus), has_functions=real.has_functions)
    features = real.features & simulated.features
    if not reason and not case.runs_on(real.version, real.iommu, features):
        reason = "it is for another kernel version or configuration, or another IOMMU"
    if reason:
        return Judgement(area, case.name, Verdict.NOT_ASKED, [reason])
    theirs, ours = run_case(case, real), run_case(case, simulated)
    pairs = list(zip(theirs.replies, ours.replies, strict=False))
    if not theirs.trouble and not ours.trouble and theirs.replies == ours.replies:
        return Judgement(area, case.name, Verdict.AGREES)
    lines = [f"real: {line}" for line in theirs.trouble] + [f"simulated: {line}" for line in ours.trouble]
    lines = lines or [f"real {one}, simulated {other}" for one, other in pairs if one != other]
    same = bool(pairs) and all(_but_hardware(one) == _but_hardware(other) for one, other in pairs)
    is_hardware = same and len(theirs.replies) == len(ours.replies) and theirs.replies != ours.replies
    return Judgement(area, case.name, Verdict.HARDWARE if is_hardware else Verdict.DIFFERS, lines)


def _but_hardware(reply: Reply) -> Reply:
    """The reply without the fields in which IOMMUs differ."""
    return replace(reply, out={name: value for name, value in reply.out.items() if name not in _HARDWARE})


def _facts(kernel: LinuxKernel, real: LiveMachine, device: Edu | None) -> Mapping[str, object]:
    system = os.uname()
    named = None
    if device is not None:
        (entry,) = inventory(kernel, Host().network, [named_device(kernel, device.address)])
        named = f"{device.address} {entry.device.vendor_id:04x}:{entry.device.device_id:04x} {entry.name}"
    return {
        "pyvfio": __version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "kernel": f"{system.release} {system.version} {system.machine}",
        "simulated": f"{real.version[0]}.{real.version[1]}, {real.iommu} IOMMU",
        "iommus": names_in(kernel, "/sys/class/iommu"),
        "command_line": text_or_empty(kernel, "/proc/cmdline"),
        "features": sorted(real.features),
        "device": named,
    }


def report(facts: Mapping[str, object], judgements: Sequence[Judgement]) -> Iterator[str]:
    """The lines of the report: what was compared, how many cases came out how, and every difference."""
    for name, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        yield f"{name.replace('_', ' '):<12}  {text or 'none'}"
    yield ""
    yield f"{'AREA':<16}  {'AGREE':>6}  {'DIFFER':>6}  {'HARDWARE':>8}  {'NOT ASKED':>9}"
    areas = dict.fromkeys(each.area for each in judgements)
    for area in [*areas, "all"]:
        counts = Counter(each.verdict for each in judgements if area in (each.area, "all"))
        cells = [counts[verdict] for verdict in (Verdict.AGREES, Verdict.DIFFERS, Verdict.HARDWARE, Verdict.NOT_ASKED)]
        yield f"{area:<16}  {cells[0]:>6}  {cells[1]:>6}  {cells[2]:>8}  {cells[3]:>9}"
    for verdict, title in (
        (Verdict.DIFFERS, "What differs"),
        (Verdict.HARDWARE, "What differs only as the IOMMU does that the simulated kernel has"),
    ):
        found = [each for each in judgements if each.verdict is verdict]
        if found:
            yield from ("", f"{title}:")
        for each in found:
            yield f"  {each.area}: {each.name}"
            yield from (f"    {line}" for line in each.lines)
    reasons = Counter(each.lines[0] for each in judgements if each.verdict is Verdict.NOT_ASKED)
    if reasons:
        yield from ("", "What could not be asked:")
    for reason, count in reasons.most_common():
        yield f"  {count:>5}  {reason}"


_DESCRIPTION = """Ask this host's own kernel the conformance cases that are safe on a host that people work on, beside
the simulated kernel of its version, and report what agrees, what differs and what could not be asked. Nothing of the
host changes but what belongs to this process. Cases that need a device are asked only with --device: one that is bound
to VFIO and idle; they open it, which resets it. Exit status 1 if something differs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status: 1 if something differs, 2 if it cannot run, for example not as root."""
    parser = argparse.ArgumentParser(prog="tools/judge", description=_DESCRIPTION)
    _configure(parser)
    options = parser.parse_args(arguments)
    try:
        return _run(options, Output(sys.stdout, json=options.json))
    except (Failure, OSError, ValueError) as error:
        print(f"tools/judge: {error}", file=sys.stderr)
        return 2
