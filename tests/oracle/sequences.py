"""Random traces: what a guest and its host may ask, what they should not, and what no sane guest would send."""

from __future__ import annotations

import errno
import random

from tests.oracle.observation import Line
from tests.oracle.qemu_device import DEVICE_MEMORY, NODES
from virtiomem.device import REQUEST_SIZE, RESPONSE_SIZE, Feature, Request, RequestType

MIB = 1 << 20
DEVICE_MEMORY_START = 4 << 30

_BLOCK_SIZES = (1, 2, 2, 2, 4, 16, 64, 128, 256, 1024)
_BLOCK_COUNTS = (1, 2, 7, 16, 33, 64, 64, 200, 512)
_REGION_LIMIT = 32 << 30
_QEMU_UNIT = 2 * MIB
"""QEMU aligns memory to a transparent huge page, even where blocks are smaller."""
_TOP = (1 << 64) - 1


class RandomTrace:
    """One seed makes one trace, whatever plays it."""

    def __init__(self, seed: int, *, persistent_suspend: bool, refusals: bool = False) -> None:
        """persistent_suspend: whether the judge offers that feature. refusals: one to three mappers refuse maps now and
        then, and nothing migrates: the devices could not."""
        self._random = random.Random(seed)
        self._block_size = self._random.choice(_BLOCK_SIZES) * MIB
        self._blocks = min(self._random.choice(_BLOCK_COUNTS), _REGION_LIMIT // self._block_size)
        self._blocks += self._blocks * self._block_size % _QEMU_UNIT // MIB
        self._address = DEVICE_MEMORY_START + self._random.randrange(
            0, DEVICE_MEMORY - _REGION_LIMIT, max(self._block_size, _QEMU_UNIT)
        )
        self._persistent_suspend = persistent_suspend
        self._refusals = refusals
        self._mappers = self._random.randint(1, 3) if refusals else 1
        self._broken = False
        self._migrating = False
        self._refusing = False
        # Ranges that may be plugged: good candidates to unplug.
        self._asked: list[tuple[int, int]] = []

    def lines(self, steps: int) -> list[Line]:
        """An init line, and steps more."""
        return [self._init(), *(self._step() for _ in range(steps))]

    def _init(self) -> Line:
        init: dict[str, object] = {
            "op": "init",
            "block_size": self._block_size,
            "addr": self._address,
            "region_size": self._blocks * self._block_size,
            "requested_size": self._some_size(),
            "mappers": self._mappers,
        }
        if self._chance(0.3):
            init["node_id"] = self._random.randrange(NODES)
        if self._chance(0.7):
            features = self._random.choice((0, Feature.UNPLUGGED_INACCESSIBLE))
            if "node_id" in init and self._chance(0.5):
                features |= Feature.ACPI_PXM
            if self._persistent_suspend and self._chance(0.5):
                features |= Feature.PERSISTENT_SUSPEND
            init["features"] = int(features)
        return init

    def _step(self) -> Line:
        if self._broken and self._chance(0.5):
            self._broken = False
            return {"op": self._random.choice(("device_reset", "device_reset", "system_reset"))}
        if self._refusing and self._chance(0.8):
            return self._plug()
        kinds = {
            self._plug: 30,
            self._unplug: 20,
            self._state: 10,
            self._unplug_all: 4,
            self._malformed: 4,
            self._resize: 12,
            self._reset: 5,
            self._refuse_map if self._refusals else self._migrate: 12 if self._migrating or self._refusals else 4,
        }
        return self._random.choices(list(kinds), list(kinds.values()))[0]()

    def _plug(self) -> Line:
        self._refusing = False
        first, count = self._some_range()
        self._asked.append((first, count))
        return self._request(RequestType.PLUG, first, count)

    def _unplug(self) -> Line:
        if len(self._asked) > 1 and self._chance(0.1):
            # From within one range to within another, and what lies between them.
            (first, _), (start, count) = sorted(self._random.sample(self._asked, 2))
            return self._request(RequestType.UNPLUG, first, start + self._random.randint(1, count) - first)
        if self._asked and self._chance(0.8):
            first, count = self._asked.pop(self._random.randrange(len(self._asked)))
            if count > 1 and self._chance(0.3):
                # A part of it, and the rest stays.
                part = self._random.randrange(1, count)
                self._asked.append((first + part, count - part))
                count = part
        else:
            first, count = self._some_range()
        return self._request(RequestType.UNPLUG, first, count)

    def _state(self) -> Line:
        return self._request(RequestType.STATE, *self._some_range())

    def _unplug_all(self) -> Line:
        self._asked.clear()
        return self._written(bytes(Request(RequestType.UNPLUG_ALL, self._random.choice((0, 1, _TOP)), 7)))

    def _malformed(self) -> Line:
        self._broken = True
        whole = bytes(Request(self._random.choice(list(RequestType)), self._address, 1))
        response_size = RESPONSE_SIZE
        match self._random.randrange(3):
            case 0:
                whole = whole[: self._random.randrange(REQUEST_SIZE)]
            case 1:
                response_size = self._random.randrange(RESPONSE_SIZE)
            case 2:
                unknown = self._random.choice((4, 5, 0x100, 0x8000, 0xFFFF))
                whole = unknown.to_bytes(2, "little") + whole[2:]
        return {"op": "request", "hex": whole.hex(), "response_size": response_size}

    def _resize(self) -> Line:
        size = self._some_size()
        if self._chance(0.2):
            region = self._blocks * self._block_size
            size = self._random.choice((size + 1, size + 4096, region + self._block_size, region * 2, 1 << 62, _TOP))
        return {"op": "resize", "requested_size": size}

    def _reset(self) -> Line:
        if self._chance(0.4):
            self._asked.clear()
            return {"op": "system_reset"}
        return {"op": "device_reset"}

    def _migrate(self) -> Line:
        self._migrating = not self._migrating
        return {"op": "migrating", "on": self._migrating}

    def _refuse_map(self) -> Line:
        self._refusing = True
        code = self._random.choice((errno.ENOMEM, errno.EEXIST, errno.EINVAL, errno.ENOSPC, errno.EFAULT))
        mapper, nth = self._random.randrange(self._mappers), self._random.choice((0, 0, 1, 2, 5))
        return {"op": "refuse_map", "mapper": mapper, "nth": nth, "errno": code}

    def _request(self, kind: RequestType, first: int, count: int) -> Line:
        address = self._address + first * self._block_size
        if self._chance(0.12):
            address, count = self._edge(address, count)
        return self._written(bytes(Request(kind, address, count)))

    def _written(self, request: bytes) -> Line:
        """The request as a guest may write it: with anything in its padding, in a longer buffer."""
        line: dict[str, object] = {"op": "request"}
        if self._chance(0.2):
            junk = self._random.randbytes(REQUEST_SIZE)
            request = request[:2] + junk[2:8] + request[8:18] + junk[18:]
        if self._chance(0.1):
            request += self._random.randbytes(self._random.randrange(100))
        if self._chance(0.1):
            line["response_size"] = RESPONSE_SIZE + self._random.randrange(50)
        return {**line, "hex": request.hex()}

    def _edge(self, address: int, count: int) -> tuple[int, int]:
        end = self._address + self._blocks * self._block_size
        return self._random.choice(
            (
                (address, 0),
                (address, 0xFFFF),
                (address + 1, count),
                (address + self._block_size // 2, count),
                (self._address - self._block_size, count),
                (0, count),
                (end, 1),
                (end - self._block_size, 2),
                (_TOP, count),
                (_TOP + 1 - self._block_size, 1),
                (_TOP + 1 - self._block_size, count + 1),
            )
        )

    def _some_range(self) -> tuple[int, int]:
        """Block and count, nearly always within the region, mostly small."""
        first = self._random.randrange(self._blocks)
        if self._asked and self._chance(0.3):
            # Right behind another range, so that runs grow together.
            first = min(sum(self._random.choice(self._asked)), self._blocks - 1)
        most = self._blocks - first if self._chance(0.15) else min(self._blocks - first, 4)
        return first, self._random.randint(1, most) + self._chance(0.03)

    def _some_size(self) -> int:
        if self._chance(0.2):
            return self._random.choice((0, self._blocks)) * self._block_size
        return self._random.randint(0, self._blocks) * self._block_size

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability
