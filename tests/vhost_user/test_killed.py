"""A server that is killed at any instant: the next one goes on, and the guest notices nothing but that it waits."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from tests.support.thorough import is_thorough
from tests.support.vhost_user.driver import DRIVERS
from tests.support.vhost_user.front_end import BLOCK, REGION_ADDRESS, REGION_SIZE
from tests.support.vhost_user.guests import Guest, KeptGuest, Kind
from tests.support.vhost_user.mortal import mortal

KILLS = 250 if is_thorough() else 5
"""Of each kind of ring."""
TALKS = 100 if is_thorough() else 5
"""The same, under messages."""


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_front_end_whose_connection_is_kept_notices_nothing(kind: Kind, tmp_path: Path) -> None:
    chance = random.Random(kind)
    with mortal(tmp_path, REGION_ADDRESS, REGION_SIZE, BLOCK, keeps=True) as servers:
        servers.start()
        guest = KeptGuest(servers, kind, chance)
        for _ in range(KILLS):
            killer = threading.Timer(chance.uniform(0, 0.02), servers.replace)
            killer.start()
            while killer.is_alive():
                guest.act()
            killer.join()
            guest.act()
            guest.expect_in_step()
        guest.close()


@pytest.mark.parametrize("kind", DRIVERS)
def test_a_server_that_is_killed_at_any_instant_is_followed_by_one_that_goes_on(kind: Kind, tmp_path: Path) -> None:
    chance = random.Random(kind)
    with mortal(tmp_path, REGION_ADDRESS, REGION_SIZE, BLOCK) as servers:
        servers.start()
        guest = Guest(servers, kind, chance)
        for _ in range(KILLS):
            killer = threading.Timer(chance.uniform(0, 0.02), servers.kill)
            killer.start()
            while killer.is_alive():
                guest.act()
            killer.join()
            guest.act()
            guest.expect_in_step()
        guest.close()


@pytest.mark.parametrize("kind", DRIVERS)
def test_every_message_is_answered_once_whoever_handles_it(kind: Kind, tmp_path: Path) -> None:
    chance = random.Random(kind)
    with mortal(tmp_path, REGION_ADDRESS, REGION_SIZE, BLOCK, keeps=True) as servers:
        servers.start()
        guest = KeptGuest(servers, kind, chance)
        for _ in range(TALKS):
            killer = threading.Timer(chance.uniform(0, 0.01), servers.replace)
            killer.start()
            while killer.is_alive():
                guest.talk()
            killer.join()
            guest.act()
            guest.expect_in_step()
        guest.close()
