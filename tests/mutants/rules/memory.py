"""Memory that devices reach."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_MEMORY_MEMORY = Rules("pyvfio/memory/memory.py")
_MEMORY_SHARED = Rules("pyvfio/memory/shared.py")
_MEMORY_TARGET = Rules("pyvfio/memory/target.py")

MEMORY = (
    _MEMORY_MEMORY(
        "                if iova is not None:\n                    raise StillMapped",
        "                if False:\n                    raise StillMapped",
        "pages that a device reaches are not discarded",
        "tests/pyvfio/test_memory.py::test_memory_that_is_mapped_is_not_discarded",
    ),
    _MEMORY_MEMORY(
        "                    mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE\n                    self.kernel.fallocate(self.fd, mode, self.file_offset + offset, size)",
        "                    mode = mman.FALLOC_FL_PUNCH_HOLE | mman.FALLOC_FL_KEEP_SIZE\n                    self.kernel.fallocate(self.fd, mode, offset, size)",
        "what is discarded is where the memory begins in its file",
        "tests/pyvfio/test_shared_memory.py::test_discarding_reaches_only_its_part_of_the_file",
    ),
    _MEMORY_MEMORY(
        '        self.check_range("discard", offset, size)\n        with self._lock:\n            for user',
        "        with self._lock:\n            for user",
        "a discard stays in the memory",
        "tests/pyvfio/test_memory.py::test_a_range_that_cannot_be_is_refused",
    ),
    _MEMORY_MEMORY(
        "        if offset < 0 or size <= 0 or offset + size > self.size:",
        "        if offset < 0 or size <= 0:",
        "no range reaches outside the memory",
        "tests/pyvfio/test_memory.py::test_a_range_that_cannot_be_is_refused",
    ),
    _MEMORY_MEMORY(
        "        if offset % unit or size % unit:",
        "        if False:",
        "ranges are whole pages",
        "tests/pyvfio/test_memory.py::test_a_range_that_cannot_be_is_refused",
    ),
    _MEMORY_MEMORY(
        "            except InterruptedError:\n                # What was populated stays so: the next try goes on from there.\n                if not left:\n                    raise",
        "            except InterruptedError:\n                raise",
        "an interrupted populate goes on",
        "tests/pyvfio/test_memory.py::test_populating_that_is_interrupted_for_ever_gives_up",
    ),
    _MEMORY_MEMORY(
        "                if fd is not None:\n                    self.kernel.close(fd)\n\n    def __repr__",
        "                pass\n\n    def __repr__",
        "closed memory closes its file",
        "tests/pyvfio/test_shared_memory.py::test_closing_closes_the_file",
    ),
    _MEMORY_MEMORY(
        "        if not 0 < size <= _LARGEST or size % self.page_size:",
        "        if False:",
        "memory is whole pages",
        "tests/pyvfio/test_memory.py::test_a_size_that_cannot_be_is_refused",
    ),
    _MEMORY_MEMORY(
        "return entries.count(1) * host_page_size()",
        "return len(entries) * host_page_size()",
        "only resident pages count",
        "tests/pyvfio/test_memory.py::test_populate_takes_pages_and_discard_gives_them_back_as_zeros",
    ),
    _MEMORY_MEMORY(
        "return self._keep_from_children(address, mman.MADV_WIPEONFORK)\n            case MemoryKind.THP",
        "return address\n            case MemoryKind.THP",
        "a forked child does not get the pages",
        "tests/pyvfio/test_memory.py::test_a_forked_child_has_no_copy_of_private_memory",
    ),
    _MEMORY_MEMORY(
        "            weakref.finalize(array, self._drop, hold).atexit = False",
        "            array.__class__",
        "a buffer that is gone keeps nothing",
        "tests/pyvfio/test_memory.py::test_a_buffer_keeps_the_memory_beyond_close",
    ),
    _MEMORY_SHARED(
        "            if self._holds:\n                raise VfioError(",
        "            if False:\n                raise VfioError(",
        "no other file comes under a buffer",
        "tests/pyvfio/test_shared_addresses.py::test_no_other_file_comes_under_a_view",
    ),
    _MEMORY_SHARED(
        '            self._require_unmapped("attach memory")\n',
        "",
        "no other file comes under a mapping",
        "tests/pyvfio/test_shared_memory.py::test_while_it_is_mapped_it_stays_attached",
    ),
    _MEMORY_SHARED(
        '            self._require_unmapped("detach memory")\n',
        "",
        "a file does not go under a mapping",
        "tests/pyvfio/test_shared_memory.py::test_while_it_is_mapped_it_stays_attached",
    ),
    _MEMORY_SHARED(
        "                self._reserve(self.address)\n                arguments",
        "                arguments",
        "the addresses are kept when attach() fails",
        "tests/pyvfio/test_shared_addresses.py::test_an_attach_that_fails_is_undone",
    ),
    _MEMORY_SHARED(
        "                self._reserve(self.address)\n                fd, self.fd = self.fd, None",
        "                fd, self.fd = self.fd, None",
        "shared memory without a file is reserved again",
        "tests/pyvfio/test_shared_addresses.py::test_without_a_file_the_addresses_are_reserved_again",
    ),
    _MEMORY_SHARED(
        "                if before is not None and before != fd:\n                    self.kernel.close(before)",
        "                pass",
        "the file before is closed",
        "tests/pyvfio/test_shared_addresses.py::test_a_file_that_another_one_replaces_is_closed",
    ),
    _MEMORY_SHARED(
        "            self.fd = fd\n            self.file_offset = offset",
        "            self.fd = fd",
        "memory knows where in its file it begins",
        "tests/pyvfio/test_shared_memory.py::test_discarding_reaches_only_its_part_of_the_file",
    ),
    _MEMORY_SHARED(
        "            before, self.fd = self.fd, None\n",
        "            before = self.fd\n",
        "an attach that fails leaves nothing attached",
        "tests/pyvfio/test_shared_addresses.py::test_an_attach_that_fails_is_undone",
    ),
    _MEMORY_TARGET(
        "            self._users.pop(user, None)\n            self._free_if_unused()",
        "            self._users.pop(user, None)",
        "memory goes back when its last user has gone",
        "tests/pyvfio/test_shared_addresses.py::test_memory_that_is_mapped_twice_is_held_once_and_released_with_its_last_user",
    ),
)
