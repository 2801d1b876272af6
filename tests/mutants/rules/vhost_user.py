"""Rings, messages and memory of a front end."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_VHOST_USER_SPLIT_QUEUE = Rules("virtiomem/vhost_user/split_queue.py")
_VHOST_USER_PACKED_QUEUE = Rules("virtiomem/vhost_user/packed_queue.py")
_VHOST_USER_CHAIN = Rules("virtiomem/vhost_user/chain.py")
_VHOST_USER_VIRTQUEUE = Rules("virtiomem/vhost_user/virtqueue.py")
_VHOST_USER_MEMORY_TABLE = Rules("virtiomem/vhost_user/memory_table.py")
_VHOST_USER_CONNECTION = Rules("virtiomem/vhost_user/connection.py")
_VHOST_USER_SESSION_NEGOTIATION = Rules("virtiomem/vhost_user/session/negotiation.py")
_VHOST_USER_FOREIGN_EVENT = Rules("virtiomem/vhost_user/foreign_event.py")
_VHOST_USER_REGION_MEMORY = Rules("virtiomem/vhost_user/region_memory.py")

VHOST_USER = (
    _VHOST_USER_SPLIT_QUEUE(
        "        if available > self._size:\n            raise",
        "        if False:\n            raise",
        "no more chains are available than the ring has",
        "tests/vhost_user/test_broken_rings.py::test_a_ring_that_runs_ahead_or_backwards",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "            if index >= count:\n                raise",
        "            if False:\n                raise",
        "no descriptor lies outside its table",
        "tests/vhost_user/test_broken_rings.py::test_a_table_that_leads_astray",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "            if address % alignment:\n",
        "            if False:\n",
        "the areas of a split ring are aligned",
        "tests/vhost_user/test_broken_rings.py::test_a_ring_outside_the_guests_memory",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "if table is not self._descriptors or descriptor.flags & VRING_DESC_F_NEXT:",
        "if False:",
        "no indirect descriptor is within a table",
        "tests/vhost_user/test_queues.py::test_what_no_driver_may_do_breaks_a_split_ring",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "        if old == self._next_used:\n            return False\n",
        "",
        "the driver is called only for what was pushed",
        "tests/vhost_user/test_queues.py::test_a_driver_is_called_for_what_was_pushed_since",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "return not self._avail.load(0, 2) & VRING_AVAIL_F_NO_INTERRUPT",
        "return True",
        "a driver that wants no call gets none",
        "tests/vhost_user/test_requests.py::test_a_split_driver_may_not_want_calls",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "            return is_passed(event, old, self._next_used)",
        "            return True",
        "a driver is called at the event it has named",
        "tests/vhost_user/test_requests.py::test_a_split_driver_says_for_what_it_wants_calls",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "self._next_used = (self._next_used + 1) & 0xFFFF\n        # The answer",
        "self._next_used = self._next_used + 1\n        # The answer",
        "indexes wrap at 65536",
        "tests/vhost_user/test_queues.py::test_indexes_wrap_at_65536",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "            self._used.store(_USED_RING + _ELEMENT * self._size, 2, self._next_avail)\n",
        "            pass\n",
        "the driver is told when to kick",
        "tests/vhost_user/test_requests.py::test_a_split_driver_says_for_what_it_wants_calls",
    ),
    _VHOST_USER_SPLIT_QUEUE(
        "        # The driver wrote the entry and its descriptors before the index: read them after it [2.7.13].\n        memory_barrier()\n",
        "",
        "descriptors are read after the index",
        "tests/vhost_user/test_ordering.py::test_what_must_not_change_places_has_a_barrier_between",
    ),
    _VHOST_USER_PACKED_QUEUE(
        "        if index >= size:\n            raise broken",
        "        if False:\n            raise broken",
        "a packed ring stands at one of its descriptors",
        "tests/vhost_user/test_queues.py::test_a_packed_ring_stands_at_one_of_its_descriptors",
    ),
    _VHOST_USER_PACKED_QUEUE(
        "            self.index -= self.size\n            self.wrapped = not self.wrapped",
        "            self.index -= self.size",
        "the wrap counter turns at the end",
        "tests/vhost_user/test_queues.py::test_a_packed_ring_goes_round",
    ),
    _VHOST_USER_PACKED_QUEUE(
        "        if layout.descriptors % VRING_DESC_ALIGN_SIZE or (layout.driver | layout.device) % _EVENT_SIZE:",
        "        if False:",
        "the areas of a packed ring are aligned",
        "tests/vhost_user/test_broken_rings.py::test_a_ring_outside_the_guests_memory",
    ),
    _VHOST_USER_PACKED_QUEUE(
        " or bool(flags & _USED) == self._next_avail.wrapped:",
        ":",
        "a descriptor that was used is not available",
        "tests/vhost_user/test_queues.py::test_a_packed_ring_goes_round",
    ),
    _VHOST_USER_PACKED_QUEUE(
        "flags = (_AVAIL | _USED if position.wrapped else 0) | (VRING_DESC_F_WRITE if written else 0)",
        "flags = (_AVAIL | _USED if position.wrapped else 0)",
        "an answer with bytes in it says so",
        "tests/vhost_user/test_queues.py::test_a_packed_ring_goes_round",
    ),
    _VHOST_USER_PACKED_QUEUE(
        "        position.advance(chain.slots)\n        self._pushed",
        "        position.advance(1)\n        self._pushed",
        "a chain takes as many slots as it has descriptors",
        "tests/vhost_user/test_queues.py::test_a_chain_takes_as_many_slots_as_it_has_descriptors",
    ),
    _VHOST_USER_CHAIN(
        "        if self._count > self.limit:\n            raise",
        "        if False:\n            raise",
        "a chain has no more buffers than the ring",
        "tests/vhost_user/test_broken_rings.py::test_tables_no_driver_may_offer",
    ),
    _VHOST_USER_CHAIN(
        "        if not size:\n            raise broken",
        "        if False:\n            raise broken",
        "no buffer is empty",
        "tests/vhost_user/test_broken_rings.py::test_buffers_no_driver_may_offer",
    ),
    _VHOST_USER_CHAIN(
        "        if self._writable and not writable:\n            raise",
        "        if False:\n            raise",
        "readable buffers come first",
        "tests/vhost_user/test_broken_rings.py::test_buffers_no_driver_may_offer",
    ),
    _VHOST_USER_CHAIN(
        "        for _ in self.memory.pieces(address, size):\n            pass\n",
        "",
        "a buffer is in the guest's memory",
        "tests/vhost_user/test_queues.py::test_what_no_driver_may_do_breaks_a_split_ring",
    ),
    _VHOST_USER_VIRTQUEUE(
        "    if not features.indirect:\n        raise",
        "    if False:\n        raise",
        "indirect descriptors are negotiated",
        "tests/vhost_user/test_queues.py::test_indirect_descriptors_are_negotiated",
    ),
    _VHOST_USER_VIRTQUEUE(
        "    if not size or size % DESCRIPTOR_SIZE:\n",
        "    if not size:\n",
        "a table of descriptors is whole ones",
        "tests/vhost_user/test_queues.py::test_what_no_driver_may_do_breaks_a_split_ring",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "        if not entry.memory_size or max(end, user_end, entry.mmap_offset + entry.memory_size) > _END:",
        "        if not entry.memory_size:",
        "no region wraps",
        "tests/vhost_user/test_queues.py::test_a_region_that_cannot_be_is_refused_and_its_file_closed",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "            if entry.guest_phys_addr < other.guest_address + other.size and other.guest_address < end:",
        "            if False:",
        "regions do not overlap in the guest",
        "tests/vhost_user/test_queues.py::test_a_region_that_cannot_be_is_refused_and_its_file_closed",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "            if entry.userspace_addr < other.user_address + other.size and other.user_address < user_end:",
        "            if False:",
        "regions do not overlap in the front end",
        "tests/vhost_user/test_queues.py::test_a_region_that_cannot_be_is_refused_and_its_file_closed",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "        if not stat.S_ISREG(status.st_mode):",
        "        if False:",
        "memory is a file",
        "tests/vhost_user/test_queues.py::test_what_is_no_file_is_no_memory",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "        if status.st_size < entry.mmap_offset + entry.memory_size:",
        "        if False:",
        "a region's file is long enough",
        "tests/vhost_user/test_queues.py::test_a_region_that_cannot_be_is_refused_and_its_file_closed",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "+ entry.memory_size > _MOST_BYTES:",
        "+ entry.memory_size < 0:",
        "a front end shares no more memory than there are addresses",
        "tests/vhost_user/test_queues.py::test_a_region_that_cannot_be_is_refused_and_its_file_closed",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "        except BaseException:\n            os.close(fd)\n            raise\n        self.regions = (*self.regions, region)",
        "        except BaseException:\n            raise\n        self.regions = (*self.regions, region)",
        "a region that is refused closes its file",
        "tests/vhost_user/test_queues.py::test_a_region_that_cannot_be_is_refused_and_its_file_closed",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "    is_page_size = host_page_size() <= size <= _LARGEST_PAGE and not size & (size - 1)",
        "    is_page_size = True",
        "a file system's page size is not believed",
        "tests/vhost_user/test_boundary.py::test_a_file_system_that_says_0",
    ),
    _VHOST_USER_MEMORY_TABLE(
        "        self.close()\n        self.regions = table.regions",
        "        self.regions = table.regions",
        "the regions before are unmapped",
        "tests/vhost_user/test_queues.py::test_regions_that_are_replaced_are_unmapped",
    ),
    _VHOST_USER_CONNECTION(
        "        if header.size > _LARGEST_PAYLOAD:",
        "        if False:",
        "no message is longer than any needs",
        "tests/vhost_user/test_queues.py::test_what_cannot_be_a_message_ends_the_session",
    ),
    _VHOST_USER_SESSION_NEGOTIATION(
        "            # The ring goes on in the memory that there was.\n            self._service.start()\n            raise",
        "            raise",
        "a ring goes on when a memory table is refused",
        "tests/vhost_user/test_boundary.py::test_a_ring_that_runs_runs_on_when_a_memory_table_is_refused",
    ),
    _VHOST_USER_FOREIGN_EVENT(
        "        if not is_eventfd:\n            os.close(fd)\n            raise",
        "        if False:\n            os.close(fd)\n            raise",
        "what is no eventfd is no event",
        "tests/vhost_user/test_boundary.py::test_what_is_no_eventfd_is_no_event",
    ),
    _VHOST_USER_FOREIGN_EVENT(
        "os.preadv(self._fd, [bytearray(8)], -1, os.RWF_NOWAIT)",
        "os.read(self._fd, 8)",
        "nobody waits for a kick that its owner has emptied",
        "tests/vhost_user/test_boundary.py::test_a_kick_that_its_owner_empties_is_not_waited_for",
    ),
    _VHOST_USER_REGION_MEMORY(
        "        if not is_left and not self._discard and _holds_pages(region, file.offset, self._size):",
        "        if False:",
        "memory that may be somebody's is left alone",
        "tests/vhost_user/test_proof.py::test_memory_that_may_be_somebodys_is_left_alone",
    ),
    _VHOST_USER_REGION_MEMORY(
        "            if (length := _status(region).st_size) != self._size:",
        "            if (length := self._size) != self._size:",
        "a file that is more than the region is left alone",
        "tests/vhost_user/test_proof.py::test_memory_that_may_be_somebodys_is_left_alone",
    ),
    _VHOST_USER_REGION_MEMORY(
        "            if others:\n                raise",
        "            if False:\n                raise",
        "a region's file is nobody else's",
        "tests/vhost_user/test_proof.py::test_memory_that_may_be_somebodys_is_left_alone",
    ),
    _VHOST_USER_REGION_MEMORY(
        "        elif offset != self._file_offset:\n",
        "        elif False:\n",
        "where the host says the region is in its file is checked",
        "tests/vhost_user/test_proof.py::test_where_the_host_says_it_is_checked",
    ),
)
