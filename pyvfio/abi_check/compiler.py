"""What the C compiler says of a header: sizes, offsets and values, from a program that prints them."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyvfio.abi_check.errors import AbiCheckError
from pyvfio.abi_check.facts import Facts, Layout, Place, aggregate_type, array_type, integer_type, number
from pyvfio.abi_check.header import HeaderNames, Member, scan
from pyvfio.abi_check.mirror import Mirror
from pyvfio.texts import lines_of, words_of

_VERSION: Final = "linux/version.h"
_VERSION_CODE: Final = "LINUX_VERSION_CODE"


@dataclass(frozen=True, slots=True)
class HeaderFacts:
    """path: the file; release: the kernel's, empty if the tree does not say."""

    path: str
    release: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Compiler:
    """A C compiler for this machine, and the header tree it reads: its own if include is None.

    A tree is what `make headers_install` installs: it contains linux/ and may contain asm/, here or under the
    compiler's multiarch name.
    """

    command: str
    include: Path | None

    def header_facts(self, mirror: Mirror, mirrored: Facts) -> HeaderFacts | None:
        """What the mirror's header says, or None if the tree does not have it.

        Of a header that is not mirrored completely, only what is in mirrored.
        """
        if not self._has(mirror.header):
            return None
        headers = [header for header in (_VERSION, mirror.header) if self._has(header)]
        includes = "".join(f"#include <{header}>\n" for header in headers)
        options = self._options()
        preprocessed = self._compile(["-E", "-dD", *options], includes)
        names = scan(preprocessed, mirror.header)
        if not mirror.complete:
            names.keep(mirrored.structs.keys() | mirrored.numbers.keys())
        constants = [name for name, value in names.constants.items() if value is None]
        constants += sorted(names.included & mirrored.numbers.keys())
        program = _program(includes, names, constants, has_version=_VERSION in headers)
        with tempfile.TemporaryDirectory(prefix="pyvfio-abi-") as directory:
            probe = Path(directory) / "probe"
            self._compile(["-w", "-o", str(probe), *options], program)
            try:
                output = subprocess.run([probe], capture_output=True, text=True, check=True).stdout
            except PermissionError as error:
                raise AbiCheckError(
                    f"programs cannot be run from {directory}: set TMPDIR to a directory where they can."
                ) from error
        return _parse(output, names)

    def _has(self, header: str) -> bool:
        if self.include is not None:
            return (self.include / header).is_file()
        return "yes" in self._compile(["-E", "-P"], f"#if __has_include(<{header}>)\nyes\n#endif\n")

    def _options(self) -> list[str]:
        if self.include is None:
            return []
        multiarch = self._compile(["-print-multiarch"], "").strip()
        return [f"-I{self.include}", f"-I{self.include / multiarch}"]

    def _compile(self, options: list[str], source: str) -> str:
        executable = shutil.which(self.command)
        if executable is None:
            raise AbiCheckError(
                f"no C compiler: {self.command} was not found. Install one (Debian, Ubuntu: gcc and "
                "libc6-dev) or name one with --cc."
            )
        command = [executable, *options, "-x", "c", "-"]
        result = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            complaints = [line.strip() for line in lines_of(result.stderr) if "error" in line]
            raise AbiCheckError(
                f"{self.command} refuses the headers of {self.include or 'the system'}: "
                f"{complaints[0] if complaints else f'exit status {result.returncode}'}. "
                "The headers of a kernel source tree must first be installed: make headers_install."
            )
        return result.stdout


def _program(includes: str, names: HeaderNames, constants: list[str], *, has_version: bool) -> str:
    lines = [includes, "int printf(const char *, ...);", "int main(void) {"]
    if has_version:
        lines.append(f'printf("version %u\\n", (unsigned) {_VERSION_CODE});')
    for struct, members in names.structs.items():
        lines.append(f'printf("struct {struct} %zu\\n", sizeof(struct {struct}));')
        lines += [_print_field(struct, member) for member in members]
    lines += [_print_number(name) for name in constants]
    return "\n".join([*lines, "return 0; }", ""])


def _print_field(struct: str, member: Member) -> str:
    value = f"((struct {struct} *) 0)->{member.name}"
    element = value if member.length is None else f"{value}[0]"
    type_ = f"__typeof__({element})"
    is_signed = "0" if member.is_aggregate else f"({type_}) -1 < ({type_}) 1"
    length = "0UL" if member.is_flexible else f"sizeof({value}) / sizeof({element})"
    offset = f"__builtin_offsetof(struct {struct}, {member.name})"
    values = f"{offset}, sizeof({element}), {is_signed}, {length}"
    return f'printf("field {struct} {member.name} %zu %zu %d %zu\\n", {values});'


def _print_number(name: str) -> str:
    # As the unsigned field that holds it: the sign of an int is not extended.
    value = f"sizeof({name}) > 4 ? (unsigned long long) ({name}) : (unsigned) ({name})"
    return f'printf("number {name} %llu\\n", {value});'


def _parse(output: str, names: HeaderNames) -> HeaderFacts:
    facts = Facts()
    facts.numbers.update((name, value) for name, value in names.constants.items() if value is not None)
    release = ""
    for line in lines_of(output):
        match words_of(line):
            case ["version", code]:
                release = f"{int(code) >> 16}.{int(code) >> 8 & 0xFF}.{int(code) & 0xFF}"
            case ["struct", name, size]:
                facts.structs[name] = Layout(int(size), {})
            case ["number", name, value]:
                facts.numbers[name] = number(int(value))
            case ["field", struct, name, offset, size, is_signed, length]:
                member = next(member for member in names.structs[struct] if member.name == name)
                type_ = _type(member, int(size), is_signed == "1", int(length))
                facts.structs[struct].fields[name] = Place(int(offset), type_)
    return HeaderFacts(names.path, release, facts)


def _type(member: Member, size: int, signed: bool, length: int) -> str:
    element = aggregate_type(size) if member.is_aggregate else integer_type(size, signed=signed)
    return element if member.length is None else array_type(element, length)
