"""virtiomem serve and virtiomem resize, with a stock guest between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vmlib.guest import Guest
from vmlib.kernels import Image

from tests.support.guest.view import memory, total
from tests.support.vhost_user.process import serving
from virtiomem import Run
from virtiomem.cli import main
from virtiomem.trace import replay

MIB = 1 << 20
ADDRESS = 1 << 32


def test_a_guest_follows_the_command_line(
    kernel_image: Callable[[str], Image], tmp_path: Path, say: Callable[[str], None]
) -> None:
    socket, trace, control = tmp_path / "device", tmp_path / "trace", tmp_path / "control"
    arguments = ["--vhost-user", str(socket), "--region", "1G", "--block-size", "2M", "--record", str(trace)]
    with (
        serving(tmp_path, *arguments),
        Guest(kernel_image("debian-7"), str(socket), ADDRESS, 1024 * MIB) as guest,
    ):
        guest.wait_until_booted()
        booted_with = total(guest)
        for size in (256, 128):
            assert main(["resize", f"{size}M", "--timeout", "300", "--socket", str(control)]) == 0
            # The driver has yet to online, or remove, what was answered last.
            assert any(total(guest) - booted_with == size * MIB for _ in range(2000))
            assert memory(guest) == (Run(ADDRESS, size * MIB),)
            say(f"virtiomem resize {size}M: MemTotal +{(total(guest) - booted_with) >> 10} kB")
        assert main(["stop", "--socket", str(control)]) == 0
    steps = [*replay(trace.read_text().splitlines())]
    assert not any(step["error"] or step["broken"] for step in steps)
