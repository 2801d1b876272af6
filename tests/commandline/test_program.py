"""What every command does alike."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pyvfio.cli import COMMANDS as PYVFIO
from pyvfio.cli import main as pyvfio
from pyvfio.commandline import Command, Commands, Failure, Output, Program, Style
from tests.support.schemas import DIRECTORY
from virtiomem.cli import COMMANDS as VIRTIOMEM
from virtiomem.cli import main as virtiomem

SUBCOMMANDS = [
    pytest.param(main, command, id=f"{main.__module__.partition('.')[0]} {command.name}")
    for main, commands in ((pyvfio, PYVFIO), (virtiomem, VIRTIOMEM))
    for command in commands
]


def program(run: Callable[[], int]) -> Program:
    return Program("tool", "A tool.", [Command("work", "do it", lambda *_: run())])


def raising(error: BaseException) -> Callable[[], int]:
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (Failure("it is broken, mend it"), 1, "tool: it is broken, mend it\n"),
        (FileNotFoundError(2, "No such file", "x"), 1, "tool: x is not there\n"),
        (FileNotFoundError(2, "No such file"), 1, "tool: FileNotFoundError: [Errno 2] No such file\n"),
        (OSError(5, "Input/output error", "x"), 1, "tool: OSError: [Errno 5] Input/output error: 'x'\n"),
        (ValueError("nonsense"), 1, "tool: ValueError: nonsense\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_fails_is_one_sentence(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str
) -> None:
    assert program(raising(error)).main(["work"]) == status
    assert capsys.readouterr().err == said


def test_the_exit_status_is_the_commands() -> None:
    assert program(lambda: 3).main(["work"]) == 3


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["work", "--what"]])
def test_a_command_line_that_makes_no_sense(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        program(lambda: 0).main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--help" in error


@pytest.mark.parametrize(("main", "command"), SUBCOMMANDS)
def test_help_has_examples_that_parse(
    capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], command: Command
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command.name, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert command.examples
    name = main.__module__.partition(".")[0]
    parser = Program(name, "", PYVFIO if main is pyvfio else VIRTIOMEM).parser
    for line, what in command.examples:
        assert line in text
        assert what in text
        words = line.partition("|")[0].split()
        assert words[0] == name
        assert parser.parse_args(words[1:]).command.name == command.name


def test_what_json_prints_has_a_schema() -> None:
    """Every command's, and no schema is left over."""
    programs = {"pyvfio": PYVFIO, "virtiomem": VIRTIOMEM}
    names = {f"{program}-{each.name}" for program, commands in programs.items() for each in commands if each.json}
    names.add("pyvfio-abi-check")  # it has a --json of its own
    assert names == {path.stem for path in DIRECTORY.glob("*.json")}


def test_nobody_reads() -> None:
    """As in `virtiomem demo | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from virtiomem.cli import main; sys.exit(main())", "demo", "--size", "4M"],
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "painted"),
    [
        (Terminal, {}, True),
        (Terminal, {"NO_COLOR": "1"}, False),
        (Terminal, {"TERM": "dumb"}, False),
        (io.StringIO, {}, False),
    ],
)
def test_colour_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO], environment: dict[str, str], painted: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (Output(stream()).paint("text", Style.RED) != "text") == painted


def test_a_table_aligns_whatever_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    output = Output(Terminal())
    output.table([("A", "B"), (output.paint("xx", Style.RED), "y")])
    assert isinstance(output.stream, Terminal)
    assert output.stream.getvalue().splitlines()[1] == "\x1b[31mxx\x1b[0m  y"


def test_data_or_text_never_both() -> None:
    for as_json, expected in ((True, {"a": 1}), (False, "text")):
        stream = io.StringIO()
        output = Output(stream, json=as_json)
        output.data({"a": 1})
        output.text("text")
        written = stream.getvalue()
        assert (json.loads(written) if as_json else written.strip()) == expected


def completed(script: str, words: list[str], preamble: str = "") -> list[str]:
    """What bash offers for the last word, as readline would ask."""
    line = " ".join(words)
    ask = f'COMP_LINE=\'{line}\'; COMP_POINT={len(line)}; _{words[0]}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{preamble}\n{script}\n{ask}"], capture_output=True, text=True, check=True)
    return done.stdout.split()


LISTING = """ls() {
    case "$*" in
    */pci/*) printf '%s\\n' 0000:00:03.0 0000:00:1f.2 0000:03:00.0 10000:e1:00.0 ;;
    *) printf '%s\\n' /sys/class/net/eth1/device ;;
    esac
}"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("word", "offered"),
    [
        ("03", ["03:00.0"]),
        ("00", ["00:03.0", "00:1f.2"]),
        # From where readline's own last word begins.
        ("00:1", ["1f.2"]),
        ("00:1f.", ["1f.2"]),
        ("0000:03:", ["00.0"]),
        ("10000:e1:00.0", ["00.0"]),
        ("et", ["eth1"]),
    ],
)
@pytest.mark.parametrize("arguments", [["show"], ["bind", "--force", "00:03.0"], ["list"]])
def test_bash_completes_addresses(
    capsys: pytest.CaptureFixture[str], arguments: list[str], word: str, offered: list[str]
) -> None:
    """The short ones, with the shell's word breaks as they are."""
    assert pyvfio(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert "COMP_WORDBREAKS=" not in script
    assert completed(script, ["pyvfio", *arguments, word], LISTING) == offered
    broken = ["10000:e1:00.0"] if word.startswith("1") else [f"{word[: word.rfind(':') + 1]}{each}" for each in offered]
    assert completed(script, ["pyvfio", *arguments, word], f"{LISTING}\nCOMP_WORDBREAKS=' '") == broken


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["virtiomem", "de"], {"demo"}),
        (["virtiomem", "demo", "--memory", "huge"], {"hugetlb", "hugetlb-anon"}),
        (["virtiomem", "demo", "--page"], {"--page-size"}),
        (["virtiomem", "completion", "f"], {"fish"}),
    ],
)
def test_bash_completes(capsys: pytest.CaptureFixture[str], words: list[str], offered: set[str]) -> None:
    assert virtiomem(["completion", "bash"]) == 0
    assert set(completed(capsys.readouterr().out, words)) == offered


LOAD = {
    "bash": ["bash", "--norc", "-c", 'source "$0"'],
    "zsh": ["zsh", "-f", "-c", 'autoload -Uz compinit && compinit -u -D && source "$0"'],
    "fish": ["fish", "--no-config", "-c", "source $argv[1]"],
}


@pytest.mark.parametrize("shell", LOAD)
@pytest.mark.parametrize("main", [pyvfio, virtiomem])
def test_each_shell_takes_its_script(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, shell: str, main: Callable[[list[str]], int]
) -> None:
    """Without a word, where the shell is there."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command.name in script for command in (PYVFIO if main is pyvfio else VIRTIOMEM))
    if shutil.which(shell):
        path = tmp_path / "script"
        path.write_text(script)
        done = subprocess.run([*LOAD[shell], str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_command_imports_what_it_needs() -> None:
    """virtiomem show is a client: no device, no simulated kernel, no host, no DMA."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "virtiomem", "show", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    ours = {".".join(each.split(".")[:2]) for each in modules if each.startswith(("pyvfio.", "virtiomem."))}
    assert "virtiomem.control" in ours
    assert not ours & {
        "pyvfio.sim",
        "pyvfio.host",
        "pyvfio.dma",
        "pyvfio.kernel",
        "virtiomem.mapping",
        "virtiomem.manager",
    }
    assert "virtiomem.device.device" not in modules


@pytest.mark.parametrize("commands", [PYVFIO, VIRTIOMEM])
def test_a_command_is_called_by_the_word_that_finds_it(commands: Commands) -> None:
    """A program looks its module up by that word: alone if it comes first, beside all others else."""
    for command in commands:
        assert commands.called_by([command.name, "--help"]) == [command]
        assert commands.called_by(["--help", command.name]) is commands
    assert commands.called_by([]) is commands
    assert commands.called_by(["nonsense"]) is commands
    assert list(commands[1:3]) == list(commands)[1:3]
