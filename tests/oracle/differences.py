"""Where we differ from QEMU on purpose: the rows of docs/qemu-differences.md, by name."""

from __future__ import annotations

import enum
import re
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs/qemu-differences.md"


class Difference(enum.Enum):
    """What a comparison may put a difference down to; anything else is a disagreement."""

    UNPLUG_ALL_OF_NOTHING = "unplug-all-of-nothing"
    REQUESTED_SIZE_AT_START = "requested-size-at-start"
    FEATURES_NOT_OFFERED = "features-not-offered"
    ORDER_OF_LISTENERS = "order-of-listeners"
    ORDER_OF_UNMAPS = "order-of-unmaps"
    UNMAP_OF_NOTHING = "unmap-of-nothing"
    DISCARD_BEFORE_UNMAP = "discard-before-unmap"
    FAILED_UNMAP = "failed-unmap"
    FAILED_JOIN = "failed-join"


# By which comparison it shows.
IN_ANSWERS = (Difference.UNPLUG_ALL_OF_NOTHING, Difference.REQUESTED_SIZE_AT_START, Difference.FEATURES_NOT_OFFERED)
IN_MAPPINGS = tuple(difference for difference in Difference if difference not in IN_ANSWERS)


def documented() -> list[str]:
    """The names in the first column of the document's table."""
    return re.findall(r"^\| `([a-z-]+)` \|", DOCUMENT.read_text(), re.MULTILINE)
