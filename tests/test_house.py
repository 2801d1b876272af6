"""tools/house finds each kind of fault that the table speaks of, put into the tree as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from houselib import circles, floors, names, private, table
from houselib.command import PACKAGES, violations
from houselib.table import FILES_OF_A_PACKAGE, LINES_OF_A_MODULE, USERS, Circle, House
from houselib.tree import Module, Tree
from houselib.violation import Violation

# Each reads through the whole tree.
pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
PAGES = {"docs/design.md": "VFIO_IOMMU_MAP_DMA and pyvfio.kernel.limits"}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.read(ROOT, (*PACKAGES, *USERS, "tests"))


@pytest.fixture(scope="module")
def before(tree: Tree) -> set[str]:
    return {each.key for each in violations(tree, PAGES)}


def with_text(tree: Tree, path: str, text: str) -> Tree:
    """The tree with text in the file at path, after what is there."""
    name = ".".join(Path(path).with_suffix("").parts)
    whole = (tree.modules[name].text if name in tree.modules else "") + text
    return Tree({**tree.modules, name: Module.parse(name, path, whole)})


def new(tree: Tree, before: set[str], pages: Mapping[str, str] = PAGES) -> list[Violation]:
    """What is found in tree and was not before."""
    return [each for each in violations(tree, pages) if each.key not in before]


DAMAGED = "VFIO_IOMMU" + "GET_INFO"

FAULTS = [
    ("pyvfio/units.py", "from pyvfio.kernel import Kernel\n", "pyvfio.kernel, which stands above pyvfio.units"),
    (
        "pyvfio/units.py",
        "def late():\n    import pyvfio.errors\n",
        "pyvfio.errors, which stands beside pyvfio.units",
    ),
    ("pyvfio/dma/iova.py", "from pyvfio.sim import SimKernel\n", "pyvfio.sim, which is for pyvfio.testing and"),
    ("pyvfio/host/undo.py", "from pyvfio.cli import main\n", "pyvfio.cli, which is for pyvfio.__main__ only"),
    (
        "pyvfio/cli/list.py",
        "import virtiomem.runs\n",
        "pyvfio imports virtiomem.runs, and has never heard of virtiomem",
    ),
    ("pyvfio/attic.py", "", "pyvfio.attic is on no floor of pyvfio"),
    ("pyvfio/sim/attic.py", "", "pyvfio.sim.attic is on no floor of pyvfio.sim"),
    (
        "pyvfio/sim/mm/pages.py",
        "if TYPE_CHECKING:\n    from ..vfio.type1 import Type1\n",
        "pyvfio.sim.vfio, which stands above pyvfio.sim.mm",
    ),
    (
        "pyvfio/host/undo.py",
        "from pyvfio.kernel.seam import Kernel\n",
        "pyvfio.kernel.seam, an inside of pyvfio.kernel",
    ),
    ("pyvfio/host/undo.py", "from pyvfio.kernel import seam\n", "pyvfio.kernel.seam, an inside of pyvfio.kernel"),
    ("pyvfio/host/undo.py", "from pyvfio.kernel import Path\n", "Path, which is not in pyvfio.kernel.__all__"),
    ("pyvfio/host/undo.py", "from pyvfio.host import bind\n", "bind from the face of pyvfio.host, which it is in"),
    ("pyvfio/host/undo.py", "from pyvfio import Container\n", "Container from the face of pyvfio, which it is in"),
    (
        "examples/discards.py",
        "from virtiomem.discard.manager import x\n",
        "virtiomem.discard.manager, an inside of",
    ),
    ("tests/test_docs.py", "from tests.test_interface import x\n", "tests.test_interface, which has tests or fixtures"),
    ("tests/support/overlay.py", "from tests.oracle import judges\n", "tests.oracle.judges into tests/support"),
    ("virtiomem/runs.py", f'"""{DAMAGED}"""\n', f"{DAMAGED} is in no header that we mirror"),
    ("virtiomem/runs.py", "# MADV_POPULATE_WRYTE\n", "MADV_POPULATE_WRYTE is in no header that we mirror"),
    ("virtiomem/runs.py", "# VFIO_NOTHING_*\n", "VFIO_NOTHING_* is in no header that we mirror"),
    ("virtiomem/runs.py", "# pyvfio.kernel.limit\n", "pyvfio.kernel.limit is not there"),
    ("virtiomem/runs.py", "def take(run): return run._start\n", "run._start is private to another file"),
    ("virtiomem/runs.py", "def take(run): return getattr(run, '__new')\n", "getattr(run, '__new') is private"),
    ("virtiomem/runs.py", "from pyvfio.units import _secret\n", "_secret is private to another file"),
    ("virtiomem/runs.py", "def take(text): return text.splitlines()\n", "splitlines() takes U+2028 for a separator"),
    ("virtiomem/runs.py", "def part(text): return text.split()\n", "split() takes U+2028 for a separator"),
    ("virtiomem/runs.py", "\n" * LINES_OF_A_MODULE, f"more than {LINES_OF_A_MODULE}: it has two subjects"),
]
RIGHT = [
    ("virtiomem/runs.py", "# VFIO_IOMMU_MAP_DMA, MAP_DMA, VFIO_IRQ_SET_*, CAP_IPC_LOCK, pyvfio.dma.Fit\n"),
    ("virtiomem/runs.py", "class C:\n    def f(self, other): self._x = other._x = super()._y = self._z\n"),
    (
        "pyvfio/host/undo.py",
        "from pyvfio.abi import vfio\nfrom pyvfio.kernel import Kernel\nimport pyvfio.sysfs\n",
    ),
    ("pyvfio/host/undo.py", "from .undo import UndoFile\n"),
    ("examples/discards.py", "from pyvfio import Container\nfrom pyvfio.drivers.edu import Edu\n"),
    ("tests/test_docs.py", "from tests.support import overlay\nfrom tests.oracle.judges import JUDGES\n"),
    ("virtiomem/cli/plan.py", "from pyvfio.sim import SimKernel\n"),
]


@pytest.fixture(scope="module")
def all_at_once(tree: Tree, before: set[str]) -> list[Violation]:
    """What is found when every row stands in its file: looking at the whole tree for each would take long."""
    changed = tree
    for path, text, *_ in (*FAULTS, *RIGHT):
        changed = with_text(changed, path, text)
    return new(changed, before)


@pytest.mark.parametrize(("path", "text", "says"), FAULTS)
def test_a_fault_is_found_and_said(all_at_once: list[Violation], path: str, text: str, says: str) -> None:
    assert [each for each in all_at_once if each.path == path and says in each.says], text


def test_nothing_else_is_found(all_at_once: list[Violation]) -> None:
    assert [
        str(each)
        for each in all_at_once
        if not any(path == each.path and says in each.says for path, _, says in FAULTS)
    ] == []


def test_a_circle_is_found(tree: Tree, before: set[str]) -> None:
    there = with_text(tree, "virtiomem/draw/svg.py", "from .bar import bar\n")
    (violation,) = new(with_text(there, "virtiomem/draw/bar.py", "from .svg import block_map_svg\n"), before)
    assert violation.says.startswith("2 files of virtiomem.draw import each other in circles, and none is allowed")


def test_a_longer_circle_than_the_table_has_is_found(tree: Tree, before: set[str]) -> None:
    text = "from pyvfio.iommufd.page_table import HwPageTable\n"
    (violation,) = new(with_text(tree, "pyvfio/iommufd/driver_data.py", text), before)
    assert f"and {table.PATH} says " in violation.says


def test_a_full_package_is_found(tree: Tree, before: set[str]) -> None:
    files = {f"virtiomem.draw.a{number}": f"virtiomem/draw/a{number}.py" for number in range(FILES_OF_A_PACKAGE)}
    full = Tree({**tree.modules, **{name: Module.parse(name, path, "") for name, path in files.items()}})
    (violation,) = new(full, before)
    assert violation.says.startswith(f"{FILES_OF_A_PACKAGE + 2} files beside each other, more than")


def test_pages_say_what_is_there(tree: Tree, before: set[str]) -> None:
    pages = {
        "docs/new.md": f"is\n{DAMAGED} of pyvfio.limits\n>>> from pyvfio.dma.iova import Fit\nfrom pyvfio import Fit"
    }
    face, name, path = new(tree, before, pages)
    assert str(face).startswith("docs/new.md:3: imports pyvfio.dma.iova, an inside of pyvfio.dma")
    assert str(name).startswith(f"docs/new.md:2: {DAMAGED} is in no header")
    assert str(path) == "docs/new.md:2: pyvfio.limits is not there: say where it is now"


@pytest.mark.parametrize(
    ("module", "name", "value", "says"),
    [
        (
            floors,
            "HOUSES",
            (House("virtiomem", ("attic",)),),
            "virtiomem.attic is on a floor of virtiomem and is not there",
        ),
        (floors, "USED_ONLY_BY", {"pyvfio.sim": ("pyvfio.host",)}, "pyvfio.host imports pyvfio.sim no more"),
        (floors, "FACES_IN_ROOMS", ("pyvfio.host.attic",), "pyvfio.host.attic is not there"),
        (circles, "CIRCLES", (Circle("pyvfio.attic", 2, ""),), "pyvfio.attic is not there"),
        (circles, "CIRCLES", (Circle("virtiomem.draw", 2, ""),), "0 files of virtiomem.draw are in circles, not 2"),
        (names, "OTHER_NAMES", {"nowhere": "NEVER_SAID"}, "NEVER_SAID is needed no more"),
        (private, "NOT_PRIVATE", (("virtiomem/runs.py", "_x", ""),), "_x of virtiomem/runs.py is used no more"),
    ],
)
def test_a_line_that_is_not_needed_is_found(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, value: object, says: str
) -> None:
    monkeypatch.setattr(module, name, value)
    assert [each for each in violations(tree, PAGES) if each.path == table.PATH and says in each.says]
