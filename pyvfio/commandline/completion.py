"""Scripts that complete a command's words in bash, zsh and fish, made from its parser."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass

SHELLS = ("bash", "zsh", "fish")

# Lists devices as people write them: addresses without domain 0000, and network interfaces that have a device.
_NAMES = (
    "ls /sys/bus/pci/devices 2> /dev/null | sed 's/^0000://'; ls -d /sys/class/net/*/device 2> /dev/null | cut -d/ -f5"
)
_WHOLE = "ls /sys/bus/pci/devices 2> /dev/null"


@dataclass(frozen=True, slots=True)
class _Word:
    """An option or a positional argument of a subcommand.

    names: the spellings of the option; none for a positional argument. help: what it is. values: what may follow it:
    "BDF", "FILE", words with blanks between, or "" for anything; None if nothing does. repeats: whether more than one
    may follow.
    """

    names: tuple[str, ...]
    help: str
    values: str | None
    repeats: bool


@dataclass(frozen=True, slots=True)
class _Subcommand:
    """A subcommand.

    name: the word that calls it. help: what it does. words: its options and positional arguments.
    """

    name: str
    help: str
    words: tuple[_Word, ...]

    @property
    def options(self) -> Iterator[_Word]:
        return (word for word in self.words if word.names)

    @property
    def positionals(self) -> Iterator[_Word]:
        return (word for word in self.words if not word.names)


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for a shell, one of SHELLS, that completes the words of parser's command.

    It completes subcommands, options, and values that are choices, PCI addresses (metavar BDF) or files (metavar FILE).
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser.prog, list(_subcommands(parser)))


def _subcommands(parser: argparse.ArgumentParser) -> Iterator[_Subcommand]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            help_of = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, subparser in action.choices.items():
                words = tuple(_word(each) for each in subparser._actions)
                yield _Subcommand(name, help_of.get(name, ""), words)


def _word(action: argparse.Action) -> _Word:
    values: str | None = ""
    if action.nargs == 0:
        values = None
    elif action.choices is not None:
        values = " ".join(map(str, action.choices))
    elif isinstance(action.metavar, str) and action.metavar.partition("|")[0] in ("BDF", "FILE"):
        values = action.metavar.partition("|")[0]
    return _Word(tuple(action.option_strings), (action.help or "").split(" (")[0], values, action.nargs in ("+", "*"))


def _bash(program: str, subcommands: list[_Subcommand]) -> str:
    """The script for bash."""
    # readline breaks words at the colons of an address. So the script takes the word from the line, and offers what
    # begins where readline's own last word does: COMP_WORDBREAKS is the user's to set.
    lines = [f"_{program}() {{", "    local line=${COMP_LINE:0:COMP_POINT} word words previous"]
    lines += ['    read -ra words <<< "$line"', '    [[ "$line" = *[[:space:]] ]] && words+=("")']
    lines += ["    word=${words[${#words[@]}-1]}", "    previous=${words[${#words[@]}-2]}"]
    lines += ["    if [ ${#words[@]} -le 2 ]; then"]
    names = " ".join(each.name for each in subcommands)
    lines += [f'        COMPREPLY=($(compgen -W "{names}" -- "$word"))', "        return", "    fi"]
    lines += ['    case "${words[1]} $previous" in']
    for each in subcommands:
        for option in each.options:
            if option.values is not None:
                patterns = " | ".join(f'"{each.name} {name}"' for name in option.names)
                lines += [f"    {patterns}) {_bash_values(program, option.values)}; return ;;"]
    lines += ["    esac", '    case "${words[1]}" in']
    for each in subcommands:
        options = " ".join(name for option in each.options for name in option.names)
        values = "; ".join(_bash_values(program, word.values, add=True) for word in each.positionals if word.values)
        lines += [f"    {each.name})", f'        COMPREPLY=($(compgen -W "{options}" -- "$word"))']
        lines += [f"        {values}"] if values else []
        lines += ["        ;;"]
    lines += ["    esac", "}"]
    return "\n".join([*_bash_devices(program), *lines, f"complete -o nosort -F _{program} {program}"])


def _bash_devices(program: str) -> list[str]:
    return [
        f"_{program}_devices() {{",
        f"    local names=$({_NAMES}) before found",
        f'    [[ "$1" = 0000* ]] && names=$({_WHOLE})',
        '    found=($(compgen -W "$names" -- "$1"))',
        '    if [[ "$1" = *:* && "$COMP_WORDBREAKS" = *:* ]]; then',
        '        before=${1%"${1##*:}"}',
        '        found=("${found[@]#"$before"}")',
        "    fi",
        '    COMPREPLY+=("${found[@]}")',
        "}",
    ]


def _bash_values(program: str, values: str, *, add: bool = False) -> str:
    into = "COMPREPLY+=" if add else "COMPREPLY="
    match values:
        case "FILE":
            return f'{into}($(compgen -f -- "$word"))'
        case "BDF":
            return f'_{program}_devices "$word"'
        case _:
            return f'{into}($(compgen -W "{values}" -- "$word"))'


def _zsh(program: str, subcommands: list[_Subcommand]) -> str:
    lines = [f"#compdef {program}", f"_{program}() {{", "    local -a commands", "    commands=("]
    lines += [f"        {_quoted(f'{each.name}:{each.help}')}" for each in subcommands]
    lines += [
        "    )",
        "    if (( CURRENT == 2 )); then",
        "        _describe command commands",
        "        return",
        "    fi",
    ]
    lines += ["    local command=$words[2]", "    shift words; (( CURRENT-- ))", "    case $command in"]
    for each in subcommands:
        specs = [spec for word in each.words for spec in _zsh_specs(word)]
        lines += [f"    {each.name})", "        _arguments -s \\"]
        lines += [f"            {_quoted(spec)} \\" for spec in specs]
        lines += ["            && return ;;"]
    lines += ["    esac", "}", f'if [ "$funcstack[1]" = "_{program}" ]; then', f'    _{program} "$@"', "else"]
    return "\n".join([*lines, f"    compdef _{program} {program}", "fi"])


def _zsh_specs(word: _Word) -> Iterator[str]:
    actions = {"FILE": "_files", "BDF": f"($({_NAMES}; {_WHOLE}))", "": " "}
    action = "" if word.values is None else actions.get(word.values, f"({word.values})")
    description = re.sub(r"([\[\]:])", r"\\\1", word.help)
    if not word.names:
        yield f"{'*' if word.repeats else ''}:{description}:{action}"
    for name in word.names:
        yield f"*{name}[{description}]" + (f":value:{action}" if word.values is not None else "")


def _fish(program: str, subcommands: list[_Subcommand]) -> str:
    lines = [f"complete -c {program} -f"]
    for each in subcommands:
        lines += [f"complete -c {program} -n __fish_use_subcommand -a {each.name} -d {_quoted(each.help)}"]
    for each in subcommands:
        begin = f"complete -c {program} -n {_quoted(f'__fish_seen_subcommand_from {each.name}')}"
        for word in each.words:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in word.names)
            values = _fish_values(word.values, option=bool(word.names))
            lines += [" ".join(filter(None, (begin, names, values, "-d", _quoted(word.help))))]
    return "\n".join(lines)


def _fish_values(values: str | None, *, option: bool) -> str:
    """The options of complete that say what follows a word."""
    # -x: an option is followed by its value and by no file; -r: also by a file.
    required = "-x " if option else ""
    match values:
        case None:
            return ""
        case "":
            return required.strip()
        case "FILE":
            return "-r -F" if option else "-F"
        case "BDF":
            return f"{required}-a {_quoted(f'({_NAMES}; {_WHOLE})')}"
        case _:
            return f"{required}-a {_quoted(values)}"


def _quoted(text: str) -> str:
    """The text as one word of any of the shells."""
    return "'" + text.replace("'", r"'\''") + "'"
