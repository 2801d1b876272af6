"""A model in Python as a device of somebody else's, in a few lines."""

from __future__ import annotations

import threading
from pathlib import Path

from pyvfio.model_server import model_server
from pyvfio.sim.devices import Edu
from tests.support.vfio_user.bench import RawClient


def test_a_model_is_served_in_a_thread_until_it_is_stopped(tmp_path: Path, ram: int) -> None:
    path = str(tmp_path / "edu.sock")
    with model_server(path, Edu) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with RawClient(path) as client:
                client.agree()
                client.map(0, 1 << 20, ram)
                # A burst ends by itself, without another command.
                assert not client.receive().error
                assert client.read(0, 0, 4).payload[16:] == (0x0100_00ED).to_bytes(4, "little")
        finally:
            server.stop()
            serving.join()
    assert not Path(path).exists()
