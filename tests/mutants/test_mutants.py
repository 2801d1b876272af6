"""The list of mutants is in step with the tree: each fault can be put in, and its tests are there."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.rules import MUTANTS

ROOT = Path(__file__).parents[2]


@cache
def functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 150
    rules = [(mutant.file, mutant.rule) for mutant in MUTANTS]
    assert len(set(rules)) == len(rules)


def test_each_fault_can_be_put_in() -> None:
    """What is no longer found is an error: a mutant of code that has gone proves nothing."""
    texts = {mutant.file: (ROOT / mutant.file).read_text(encoding="utf-8") for mutant in MUTANTS}
    for mutant in MUTANTS:
        compile(mutant.mutated(texts[mutant.file]), mutant.file, "exec")


def test_the_tests_that_are_to_catch_them_are_there() -> None:
    missing = [
        (str(mutant), test)
        for mutant in MUTANTS
        for test in mutant.tests
        if test.split("::")[1] not in functions(test.split("::")[0])
    ]
    assert missing == []
    assert [str(mutant) for mutant in MUTANTS if not mutant.tests] == []


@pytest.mark.parametrize("text", ["", "old old"])
def test_what_is_not_there_once_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="'old' stands there"):
        Mutant("file.py", "old", "new", "a rule", ()).mutated(text)
