"""A name that is no register of a device is refused, and never kept in silence."""

from __future__ import annotations

import pytest

from pyvfio import Field, Register, Registers


class Space:
    """Registers that remember what was asked of them."""

    def __init__(self) -> None:
        self.read = list[tuple[int, int]]()
        self.written = list[tuple[int, int, int]]()

    def read_register(self, offset: int, width: int) -> int:
        self.read.append((offset, width))
        return 0

    def write_register(self, offset: int, width: int, value: int) -> None:
        self.written.append((offset, width, value))


class Controller(Registers):
    configuration = Register(0x14, 32)
    enable = Field(configuration, 0)


class Counting(Controller):
    count: int

    def __init__(self, region: Space) -> None:
        super().__init__(region)
        self.count = 3
        self._private = 4


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("configuraton", "; did you mean configuration\\?$"),
        ("enabel", "; did you mean enable\\?$"),
        ("zzz", "field zzz$"),
    ],
)
@pytest.mark.parametrize("kind", [Controller, Counting])
def test_setting_a_misspelt_name_is_an_error_and_writes_nothing(kind: type[Controller], name: str, advice: str) -> None:
    space = Space()
    controller = kind(space)
    with pytest.raises(AttributeError, match=f"{kind.__name__} has no register or field {name}") as refused:
        setattr(controller, name, 1)
    assert refused.match(advice)
    assert not hasattr(controller, name)
    assert not space.read
    assert not space.written


def test_names_that_the_class_has_are_set() -> None:
    space = Space()
    controller = Counting(space)
    controller.enable = 1
    controller.count = 5
    controller.base = 0x100
    controller.configuration = 2
    assert space.written == [(0x14, 4, 1), (0x114, 4, 2)]
    assert controller.count == 5
