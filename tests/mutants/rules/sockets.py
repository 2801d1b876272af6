"""Control sockets, the metrics port, and who finds whom."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_UNIX_SOCKET = Rules("pyvfio/unix_socket.py")
_CONTROL_SERVER = Rules("virtiomem/control/server.py")
_CONTROL_METRICS_PORT = Rules("virtiomem/control/metrics_port.py")
_CONTROL_PLACES = Rules("virtiomem/control/places.py")
_CONTROL_CLIENT = Rules("virtiomem/control/client.py")

SOCKETS = (
    _UNIX_SOCKET(
        "                    if _identity(self._place) == self._identity:\n                        self._place.unlink()",
        "                    self._place.unlink()",
        "an end removes only its own socket: its inode is looked at again under the lock",
        "tests/control/test_listener.py::test_a_socket_that_comes_in_its_place_as_it_ends_stays",
    ),
    _UNIX_SOCKET(
        "            if self._is_ours and self._process == os.getpid() and _identity(self._place) == self._identity:\n                with _locked(self._place):\n                    if _identity(self._place) == self._identity:\n                        self._place.unlink()",
        "            if self._is_ours and self._process == os.getpid():\n                self._place.unlink()",
        "an end removes only its own socket",
        "tests/control/test_listener.py::test_a_socket_that_has_come_in_its_place_stays",
    ),
    _UNIX_SOCKET(
        "        os.fchmod(self._socket.fileno(), _ITS_OWNER.mode)\n",
        "",
        "a socket is its owner's from its first moment",
        "tests/control/test_control.py::test_the_socket_is_its_owners",
    ),
    _UNIX_SOCKET(
        "            self._socket.listen()\n",
        "",
        "whoever finds a socket finds it served",
        "tests/control/test_strangers.py::test_of_two_starts_at_once_one_wins",
    ),
    _UNIX_SOCKET(
        "    if is_served(place):\n        raise",
        "    if False:\n        raise",
        "a socket that is served is not taken over",
        "tests/control/test_strangers.py::test_a_server_that_lets_nobody_in_at_the_moment_is_not_taken_for_dead",
    ),
    _UNIX_SOCKET(
        "    if not is_socket:\n        raise",
        "    if False:\n        raise",
        "what is no socket is not replaced",
        "tests/vhost_user/test_messages.py::test_a_file_is_not_taken_for_a_socket",
    ),
    _UNIX_SOCKET(
        "            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "of two starts at once one wins: a start has the lock",
        "tests/control/test_strangers.py::test_of_two_starts_at_once_one_wins",
    ),
    _UNIX_SOCKET(
        "            if _identity(lock) == _identity_of(os.fstat(fd)):\n                break",
        "            break",
        "a lock whose file was removed is none",
        "tests/control/test_listener.py::test_a_lock_whose_file_was_removed_is_taken_again",
    ),
    _UNIX_SOCKET(
        "        if _is_socket(own):\n            own.unlink()\n",
        "",
        "what a killed start left goes with the next",
        "tests/control/test_squatted.py::test_what_a_start_that_was_killed_has_left_goes_with_the_next",
    ),
    _CONTROL_SERVER(
        "            if len(self._clients) >= _MOST_CLIENTS:\n                self._send_idlest_away()\n",
        "",
        "a client that says nothing makes room",
        "tests/control/test_strangers.py::test_clients_that_say_nothing_make_room",
    ),
    _CONTROL_SERVER(
        "            if len(self._clients) >= _MOST_CLIENTS:\n                client.close()\n                return\n",
        "",
        "a control socket has a limit of clients",
        "tests/control/test_client_limit.py::test_whoever_comes_when_all_are_busy_is_sent_away",
    ),
    _CONTROL_SERVER(
        "        if not _may_connect(client):\n",
        "        if False:\n",
        "another user is sent away",
        "tests/control/test_control.py::test_others_are_sent_away",
    ),
    _CONTROL_SERVER(
        "            if len(descriptors) > most:\n",
        "            if False:\n",
        "descriptors that are not wanted are refused",
        "tests/control/test_descriptors.py::test_descriptors_that_do_not_belong_to_a_request_are_closed",
    ),
    _CONTROL_METRICS_PORT(
        "        if len(self._clients) >= _MOST_CLIENTS:\n            pass\n        elif",
        "        if",
        "the metrics port has a limit of clients",
        "tests/control/test_strangers.py::test_a_metrics_port_has_a_limit_of_clients_and_of_time",
    ),
    _CONTROL_METRICS_PORT(
        "            for client in [client for client in self._clients.values() if now >= client.deadline]:\n                self._end(client)\n",
        "            del now\n",
        "a client of the metrics port has a limit of time",
        "tests/control/test_strangers.py::test_a_metrics_port_has_a_limit_of_clients_and_of_time",
    ),
    _CONTROL_METRICS_PORT(
        "        if any(host.lower() not in",
        "        if False and any(host.lower() not in",
        "metrics are for who asks this machine",
        "tests/control/test_strangers.py::test_metrics_are_for_who_asks_this_machine",
    ),
    _CONTROL_PLACES(
        "or stat.S_IMODE(found.st_mode) & 0o077:",
        "or False:",
        "a directory that others may use says nothing",
        "tests/control/test_squatted.py::test_a_directory_that_others_may_use_says_nothing",
    ),
    _CONTROL_PLACES(
        "or found.st_uid != os.geteuid() ",
        "",
        "a directory that another user owns says nothing",
        "tests/control/test_squatted.py::test_a_directory_that_another_user_owns_says_nothing",
    ),
    _CONTROL_PLACES(
        "_is_name(name) and is_served(path)",
        "is_served(path)",
        "names of sockets are printed without an effect",
        "tests/control/test_squatted.py::test_names_of_sockets_are_printed_without_an_effect",
    ),
    _CONTROL_PLACES(
        "_is_name(name) and is_served(path)",
        "_is_name(name)",
        "a socket that was left behind is no manager",
        "tests/control/test_strangers.py::test_a_socket_that_was_left_behind_is_no_manager",
    ),
    _CONTROL_CLIENT(
        "if (owner := peer_user(self._socket)) not in (os.geteuid(), 0):",
        "if (owner := peer_user(self._socket)) < 0:",
        "another user's server is not asked",
        "tests/control/test_strangers.py::test_another_users_server_is_not_asked",
    ),
)
