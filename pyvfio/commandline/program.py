"""Program: a command with subcommands that all behave alike."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn, overload

from pyvfio.commandline import completion
from pyvfio.commandline.output import Output
from pyvfio.texts import printable
from pyvfio.version import VERSION

_USAGE = 2
_INTERRUPTED = 128 + 2
_BROKEN_PIPE = 128 + 13


class Failure(Exception):
    """What went wrong and what to do, as one sentence for the person at the keyboard."""


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand.

    name: the word that calls it. help: a phrase that says what it does. run: does it and returns the exit status.
    configure: adds its arguments; completion knows the metavars BDF and FILE. description: what it does in full; the
    help if empty. examples: command lines, and what they do. json: what --json prints, for the help; None for a command
    whose result is no data.
    """

    name: str
    help: str
    run: Callable[[argparse.Namespace, Output], int]
    configure: Callable[[argparse.ArgumentParser], None] = lambda _: None
    description: str = ""
    examples: Sequence[tuple[str, str]] = ()
    json: str | None = "print data: stable keys, sizes in bytes"


class Commands(Sequence[Command]):
    """The subcommands of a program, each in a module of its own, which has it as COMMAND.

    A module is imported when its command is looked at: a program that runs one pays for one.
    """

    def __init__(self, modules: Mapping[str, str]) -> None:
        """modules: the modules' whole names, by the words that call their commands."""
        self._modules = dict(modules)

    def called_by(self, arguments: Sequence[str] | None) -> Sequence[Command]:
        """The command that arguments (None: the process's own) call, alone; all of them if that is not plain to see."""
        word = next(iter(sys.argv[1:] if arguments is None else arguments), "")
        return [self._command(word)] if word in self._modules else self

    @overload
    def __getitem__(self, index: int) -> Command: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Command]: ...
    def __getitem__(self, index: int | slice) -> Command | Sequence[Command]:
        words = tuple(self._modules)
        return (
            [self._command(word) for word in words[index]] if isinstance(index, slice) else self._command(words[index])
        )

    def __len__(self) -> int:
        return len(self._modules)

    def _command(self, word: str) -> Command:
        command: Command = import_module(self._modules[word]).COMMAND
        return command


class Program:
    """Parses the command line and runs a command.

    An error is one sentence on stderr, without a traceback. The exit status is the command's; 1 for an error, 2 for a
    command line that makes no sense, 130 if the user interrupts it, 141 if nobody reads the output any more.
    name: the program's. parser: the parser of its command line.
    """

    def __init__(self, name: str, description: str, commands: Sequence[Command]) -> None:
        """name: what the program is called. description: what it is. commands: its subcommands; completion is added."""
        self.name = name
        self.parser = _Parser(prog=name, description=description)
        self.parser.add_argument("--version", action="version", version=f"{name} {VERSION}")
        subparsers = self.parser.add_subparsers(required=True, metavar="COMMAND")
        for command in [*commands, completion_command(self)]:
            parser = subparsers.add_parser(
                command.name,
                help=command.help,
                description=command.description or f"{command.help[0].upper()}{command.help[1:]}.",
                epilog=_examples(command.examples),
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            command.configure(parser)
            if command.json is not None:
                parser.add_argument("--json", action="store_true", help=command.json)
            parser.set_defaults(command=command)

    def main(self, arguments: Sequence[str] | None = None, **surroundings: object) -> int:
        """Run the command that arguments ask for; return the exit status.

        arguments None: the process's own. surroundings: what commands find in their options besides what arguments say.
        """
        options = self.parser.parse_args(arguments, argparse.Namespace(**surroundings))
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        command: Command = options.command
        output = Output(sys.stdout, json=command.json is not None and options.json)
        try:
            return command.run(options, output)
        except KeyboardInterrupt:
            return _INTERRUPTED
        except BrokenPipeError:
            # What is still buffered has nowhere to go; Python would complain about that at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        except Failure as error:
            return self._fail(str(error))
        except (OSError, ValueError) as error:
            return self._fail(". ".join([_sentence(error), *getattr(error, "__notes__", [])]))

    def _fail(self, sentence: str) -> int:
        print(printable(f"{self.name}: {sentence}"), file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str:
    """The words for an error that Python raised itself, with the file that it is about."""
    path = getattr(error, "filename", None)
    if isinstance(error, PermissionError) and path is not None:
        more = " even for root" if os.geteuid() == 0 else ": run it as root, or as its owner"
        return f"there is no permission for {path}{more}"
    if isinstance(error, FileNotFoundError) and path is not None:
        return f"{path} is not there"
    return f"{type(error).__name__}: {error}"


def completion_command(program: Program) -> Command:
    """The subcommand that prints the script with which a shell completes the program's words."""

    def configure(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("shell", choices=completion.SHELLS, help="which shell's script to print")

    def run(options: argparse.Namespace, output: Output) -> int:
        output.text(completion.script(options.shell, program.parser))
        return 0

    return Command(
        "completion",
        "print a script that completes this command's words in a shell",
        run,
        configure,
        examples=(
            (f'eval "$({program.name} completion bash)"', "for this shell; or from ~/.bashrc"),
            (f'{program.name} completion zsh > "${{fpath[1]}}/_{program.name}"', "for every zsh to come"),
            (f"{program.name} completion fish > ~/.config/fish/completions/{program.name}.fish", "for fish"),
        ),
        json=None,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(_USAGE, printable(f"{self.prog}: {message}. See {self.prog} --help") + "\n")


def _examples(examples: Sequence[tuple[str, str]]) -> str | None:
    if not examples:
        return None
    width = max(len(line) for line, _ in examples)
    lines = (
        f"  {line.ljust(width)}  {what}" if width + len(what) < 110 else f"  {line}\n      {what}"
        for line, what in examples
    )
    return "\n".join(["examples:", *lines])
