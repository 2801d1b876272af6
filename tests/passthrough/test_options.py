"""What --passthrough says of a device."""

from __future__ import annotations

import json
import os
import pwd

import pytest

from pyvfio.unix_socket import Permissions
from virtiomem.passthrough import PassthroughOptions, qemu_option

ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("03:00.0=a", PassthroughOptions("03:00.0", "a")),
        ("eth0=/run/a=b", PassthroughOptions("eth0", "/run/a=b")),
        ("03:00.0=a,mode=0660", PassthroughOptions("03:00.0", "a", Permissions(mode=0o660))),
        ("03:00.0=a,user=7,group=8", PassthroughOptions("03:00.0", "a", Permissions(user=7, group=8))),
        (f"03:00.0=a,user={ME}", PassthroughOptions("03:00.0", "a", Permissions(user=os.getuid()))),
        ("03:00.0=a,memory=2G", PassthroughOptions("03:00.0", "a", memory=2 << 30)),
        ("03:00.0=a,registers=messages", PassthroughOptions("03:00.0", "a", maps_registers=False)),
    ],
)
def test_what_it_says(text: str, options: PassthroughOptions) -> None:
    assert PassthroughOptions.parse(text) == options


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("03:00.0", "is not DEVICE=SOCKET"),
        ("=a", "is not DEVICE=SOCKET"),
        ("03:00.0=", "is not DEVICE=SOCKET"),
        ("03:00.0=a,colour=red", "none of user=, group=, mode=, registers=, memory="),
        ("03:00.0=a,mode", "none of user="),
        ("03:00.0=a,mode=4755", "not a mode"),
        ("03:00.0=a,mode=٠٦٦٠", "not a mode"),
        ("03:00.0=a,memory=much", "much"),
        ("03:00.0=a,registers=fast", "neither mapped nor messages"),
        ("03:00.0=a,user=no such user", "no such user"),
        ("03:00.0=a,group=no such group", "no such group"),
        ("03:00.0=a,user=4294967295", "not the number of a user"),
        ("03:00.0=a,user=" + "9" * 400, "no such user"),
    ],
)
def test_what_makes_no_sense(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PassthroughOptions.parse(text)


def test_what_qemu_is_told() -> None:
    option = json.loads(qemu_option('/run/a "b"', identity="disk"))
    assert option == {
        "driver": "vfio-user-pci",
        "socket": {"type": "unix", "path": '/run/a "b"'},
        "x-msg-timeout": 120000,
        "id": "disk",
    }
