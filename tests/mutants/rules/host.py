"""What is done to a host, and what keeps a device there."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_HOST_BINDING = Rules("pyvfio/host/binding.py")
_HOST_UNDO = Rules("pyvfio/host/undo.py")
_HOST_GUARD = Rules("pyvfio/host/guard/__init__.py")
_HOST_GUARD_DISKS = Rules("pyvfio/host/guard/disks.py")
_HOST_GUARD_MOUNTS = Rules("pyvfio/host/guard/mounts.py")

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
    _HOST_GUARD(
        "    reasons += _of_interfaces(kernel, network, device)\n",
        "",
        "an interface in use keeps its device",
        "tests/hosts/test_guard.py::test_interfaces",
    ),
    _HOST_GUARD(
        "    reasons += console_uses(kernel, device)\n",
        "",
        "the console keeps its device",
        "tests/hosts/test_guard.py::test_other_devices",
    ),
    _HOST_GUARD(
        "    reasons += virtio_uses(kernel, device)\n",
        "",
        "a file system by virtio keeps its device",
        "tests/hosts/test_hidden_uses.py::test_uses_that_nothing_names",
    ),
    _HOST_GUARD(
        "        reasons += [str(use) for disk in disks for use in uses.of(disk)]\n",
        "",
        "a disk in use keeps its controller",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD(
        "        reasons += OpenFiles(kernel).reasons(nodes)\n",
        "",
        "a program that has a node open keeps the device",
        "tests/hosts/test_guard.py::test_other_devices",
    ),
    _HOST_GUARD(
        "        Group(group, kernel=kernel).close()\n    except GroupBusy:\n        return [",
        "        pass\n    except GroupBusy:\n        return [",
        "the kernel is asked whether anybody has the group",
        "tests/hosts/test_guard.py::test_who_has_let_go_of_the_node_is_found_all_the_same",
    ),
    _HOST_GUARD(
        "    for function in functions_with_distant_interfaces(kernel, device.address):",
        "    for function in ():",
        "an interface in another network namespace keeps its device",
        "tests/hosts/test_hidden_uses.py::test_uses_that_nothing_names",
    ),
    _HOST_GUARD_DISKS(
        '        for holder in names_in(self._kernel, f"{_BLOCK}/{name}/holders"):',
        "        for holder in ():",
        "what is built of a disk keeps it",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_DISKS(
        "        if name in self._swaps:\n",
        "        if False:\n",
        "swap keeps its disk",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_DISKS(
        "        for loop in self._exports.loops_of(node_of(name)):",
        "        for loop in ():",
        "a loop device keeps its disk",
        "tests/hosts/test_hidden_uses.py::test_uses_that_nothing_names",
    ),
    _HOST_GUARD_DISKS(
        'for key in mount.sources if mount.number.startswith("0:") else (mount.number,):',
        "for key in mount.sources:",
        "which device a mount is on is decided by its number",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_DISKS(
        "        return [disk] if head == disk else [head, *self._partitions(head)]",
        "        return [disk]",
        "a path of NVMe is used by its head's names",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_DISKS(
        "fd = self._kernel.open(node, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK)",
        "fd = self._kernel.open(node, os.O_RDONLY | os.O_NONBLOCK)",
        "the kernel is asked whether anybody holds a disk",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_MOUNTS(
        "        if (namespace := _namespace(kernel, pid)) is not None and namespace not in seen:",
        "        if False and (namespace := _namespace(kernel, pid)):",
        "mounts of other namespaces count",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_MOUNTS(
        '    for line in text.split("\\n"):',
        "    for line in text.splitlines():",
        "a mount point's name ends no line",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_MOUNTS(
        "yield Mount(words[2], printable(_unescaped(words[4])) + whose",
        "yield Mount(words[2], _unescaped(words[4]) + whose",
        "a mount point is printed without an effect",
        "tests/hosts/test_guard.py::test_disks",
    ),
    _HOST_GUARD_MOUNTS(
        'several = source.split(":") if more[0] == "bcachefs" else [source]',
        "several = [source]",
        "every device of a bcachefs is in use",
        "tests/hosts/test_hidden_uses.py::test_uses_that_nothing_names",
    ),
)
