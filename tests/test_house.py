"""tools/house finds each kind of fault that the table speaks of, put into the tree as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from houselib import circles, floors, names, private, table
from houselib.command import PACKAGES, unknown, violations
from houselib.table import FILES_OF_A_PACKAGE, LINES_OF_A_MODULE, USERS, Circle, House
from houselib.tree import Module, Tree
from houselib.violation import Violation

ROOT = Path(__file__).parents[1]
PAGES = {"docs/design.md": "VFIO_IOMMU_MAP_DMA and pyvfio.kernel.limits"}


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.read(ROOT, (*PACKAGES, *USERS))


@pytest.fixture(scope="module")
def before(tree: Tree) -> set[str]:
    return {each.key for each in violations(tree, PAGES)}


def found(tree: Tree, before: set[str], path: str, text: str, pages: Mapping[str, str] = PAGES) -> list[Violation]:
    """What is new when text stands in path, after what is there."""
    name = ".".join(Path(path).with_suffix("").parts).removesuffix(".__init__")
    whole = (tree.modules[name].text if name in tree.modules else "") + text
    changed = Tree({**tree.modules, name: Module.parse(name, path, whole)})
    return [each for each in violations(changed, pages) if each.key not in before]


UP = "from pyvfio.cli import main\n"
DAMAGED = "VFIO_IOMMU" + "GET_INFO"


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("pyvfio/units.py", "from pyvfio.kernel import Kernel\n", "pyvfio.kernel, which stands above pyvfio.units"),
        (
            "pyvfio/units.py",
            "def late():\n    import pyvfio.errors\n",
            "pyvfio.errors, which stands beside pyvfio.units",
        ),
        ("pyvfio/dma/iova.py", "from pyvfio.sim import SimKernel\n", "pyvfio.sim, which is for pyvfio.testing and"),
        ("pyvfio/host/guard.py", UP, "pyvfio.cli, which is for nobody to import"),
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
            "pyvfio/host/guard.py",
            "from pyvfio.kernel.seam import Kernel\n",
            "pyvfio.kernel.seam, an inside of pyvfio.kernel",
        ),
        ("pyvfio/host/guard.py", "from pyvfio.kernel import seam\n", "pyvfio.kernel.seam, an inside of pyvfio.kernel"),
        ("pyvfio/host/guard.py", "from pyvfio.kernel import Path\n", "Path, which is not in pyvfio.kernel.__all__"),
        ("pyvfio/host/guard.py", "from pyvfio.host import bind\n", "bind from the face of pyvfio.host, which it is in"),
        ("pyvfio/host/guard.py", "from pyvfio import Container\n", "Container from the face of pyvfio, which it is in"),
        (
            "examples/discards.py",
            "from virtiomem.discard.manager import x\n",
            "virtiomem.discard.manager, an inside of",
        ),
        ("virtiomem/runs.py", f'"""{DAMAGED}"""\n', f"{DAMAGED} is in no header that we mirror"),
        ("virtiomem/runs.py", "# MADV_POPULATE_WRYTE\n", "MADV_POPULATE_WRYTE is in no header that we mirror"),
        ("virtiomem/runs.py", "# VFIO_NOTHING_*\n", "VFIO_NOTHING_* is in no header that we mirror"),
        ("virtiomem/runs.py", "# pyvfio.kernel.limit\n", "pyvfio.kernel.limit is not there"),
        ("virtiomem/runs.py", "def take(run): return run._start\n", "run._start is private to another file"),
        ("virtiomem/runs.py", "def take(run): return getattr(run, '__new')\n", "getattr(run, '__new') is private"),
        ("virtiomem/runs.py", "from pyvfio.units import _x\n", "_x is private to another file"),
        ("virtiomem/runs.py", "\n" * LINES_OF_A_MODULE, f"more than {LINES_OF_A_MODULE}: it has two subjects"),
    ],
)
def test_a_fault_is_found_and_said(tree: Tree, before: set[str], path: str, text: str, says: str) -> None:
    (violation,) = found(tree, before, path, text)
    assert violation.path == path
    assert says in violation.says


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("virtiomem/runs.py", "# VFIO_IOMMU_MAP_DMA, MAP_DMA, VFIO_IRQ_SET_*, CAP_IPC_LOCK, pyvfio.dma.Fit\n"),
        ("virtiomem/runs.py", "class C:\n    def f(self, other): self._x = other._x = super()._y = self._z\n"),
        (
            "pyvfio/host/guard.py",
            "from pyvfio.abi import vfio\nfrom pyvfio.kernel import Kernel\nimport pyvfio.sysfs\n",
        ),
        ("pyvfio/host/guard.py", "from .undo import UndoFile\n"),
        ("examples/discards.py", "from pyvfio import Container\nfrom pyvfio.drivers.edu import Edu\n"),
        ("virtiomem/cli/plan.py", "from pyvfio.sim import SimKernel\n"),
    ],
)
def test_what_is_right_is_not_found(tree: Tree, before: set[str], path: str, text: str) -> None:
    assert found(tree, before, path, text) == []


def test_a_circle_is_found(tree: Tree, before: set[str]) -> None:
    bar = tree.modules["virtiomem.draw.bar"]
    back = Module.parse(bar.name, bar.path, f"{bar.text}from .svg import block_map_svg\n")
    with_back = Tree({**tree.modules, bar.name: back})
    (violation,) = found(with_back, before, "virtiomem/draw/svg.py", "from .bar import bar\n")
    assert violation.says.startswith("2 files of virtiomem.draw import each other in circles, and none is allowed")


def test_a_longer_circle_than_the_table_has_is_found(tree: Tree, before: set[str]) -> None:
    text = "from pyvfio.iommufd.page_table import HwPageTable\n"
    (violation,) = found(tree, before, "pyvfio/iommufd/driver_data.py", text)
    assert f"and {table.PATH} says " in violation.says


def test_a_full_package_is_found(tree: Tree, before: set[str]) -> None:
    files = {f"virtiomem.draw.a{number}": f"virtiomem/draw/a{number}.py" for number in range(FILES_OF_A_PACKAGE)}
    full = Tree({**tree.modules, **{name: Module.parse(name, path, "") for name, path in files.items()}})
    (violation,) = [each for each in violations(full, PAGES) if each.key not in before]
    assert violation.says.startswith(f"{FILES_OF_A_PACKAGE + 2} files beside each other, more than")


def test_pages_say_what_is_there(tree: Tree, before: set[str]) -> None:
    pages = {"docs/new.md": f"is\n{DAMAGED} of pyvfio.limits"}
    name, path = found(tree, before, "virtiomem/runs.py", "", pages)
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


def test_what_is_known_is_not_said_until_it_is_mended() -> None:
    fault = Violation("size: a", "a", 401, "too long")
    assert [*unknown([fault], "# why\n\nsize: a\n")] == []
    assert [*unknown([fault], "")] == [fault]
    (mended,) = unknown([fault], "size: a\nsize: b\n")
    assert str(mended) == 'tools/houselib/known.txt:2: "size: b" is mended: take the line out'
