"""What is done to a host, and what keeps a device there."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_HOST_BINDING = Rules("pyvfio/host/binding.py")
_HOST_UNDO = Rules("pyvfio/host/undo.py")

HOST = (
    _HOST_BINDING(
        "    if device.driver == driver:\n        return\n    cause",
        "    if True:\n        return\n    cause",
        "that the driver took the device is verified",
        "tests/hosts/test_given_back.py::test_a_driver_that_refuses_its_device_leaves_it_where_it_is",
    ),
    _HOST_BINDING(
        "return [_override(now, driver), *_unbind(now), Write(PROBE, now.address), _override(now, now.override)]",
        "return [_override(now, driver), *_unbind(now), Write(PROBE, now.address)]",
        "the override is put back after a bind",
        "tests/hosts/test_given_back.py::test_a_driver_that_refuses_its_device_leaves_it_where_it_is",
    ),
    _HOST_BINDING(
        "    return [_override(now, None), *_unbind(now), Write(PROBE, now.address)]",
        "    return [*_unbind(now), Write(PROBE, now.address)]",
        "unbind clears the override first",
        "tests/hosts/test_given_back.py::test_after_a_boot_a_device_is_given_back_to_the_driver_it_had_before_its_rule",
    ),
    _HOST_BINDING(
        "        _lead_back(kernel, before, error)\n        raise\n\n\ndef _lead_to",
        "        raise\n\n\ndef _lead_to",
        "a bind that fails is undone",
        "tests/hosts/test_given_back.py::test_a_device_that_nobody_takes_has_no_override",
    ),
    _HOST_UNDO(
        "                os.fsync(file.fileno())\n",
        "",
        "an entry is on disk before it is seen",
        "tests/pyvfio/test_undo.py::test_it_is_on_disk_before_it_is_seen",
    ),
    _HOST_UNDO(
        "            os.fsync(directory)\n",
        "            pass\n",
        "a replaced undo file is on disk",
        "tests/pyvfio/test_undo.py::test_it_is_on_disk_before_it_is_seen",
    ),
    _HOST_UNDO(
        "            self._write([*kept, *(entry for entry in before if entry.address not in addresses)])",
        "            self._write([*kept, *before])",
        "what was noted first stays",
        "tests/pyvfio/test_undo.py::test_what_was_first_stays",
    ),
    _HOST_UNDO(
        "                if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:",
        "                if False:",
        "a lock that others may hold is refused",
        "tests/hosts/test_other_users.py::test_a_lock_that_others_may_hold_is_refused",
    ),
    _HOST_UNDO(
        "                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "                pass\n",
        "one process at a time changes the undo file: it is locked",
        "tests/hosts/test_other_users.py::test_a_process_of_the_same_user_is_waited_for_and_named_in_the_end",
    ),
    _HOST_UNDO(
        '            self._beside("new").unlink(missing_ok=True)\n            yield',
        "            yield",
        "what a killed process left is replaced",
        "tests/hosts/test_other_users.py::test_what_a_killed_process_has_left_goes_with_the_next_change",
    ),
)
