"""Who maps memory, and is told before it comes and goes."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_DISCARD_MANAGER = Rules("virtiomem/discard/manager.py")
_DISCARD_REGISTRATION = Rules("virtiomem/discard/registration.py")
_MAPPING_DMA = Rules("virtiomem/mapping/dma.py")

LISTENERS = (
    _DISCARD_MANAGER(
        "            if self._find(listener, section):\n                operation",
        "            if False:\n                operation",
        "a section is registered once",
        "tests/virtiomem/test_discard.py::test_mistakes_change_nothing",
    ),
    _DISCARD_MANAGER(
        "            self._check_section(section)\n            if self._find",
        "            if self._find",
        "a section is a part of the region",
        "tests/virtiomem/test_discard.py::test_mistakes_change_nothing",
    ),
    _DISCARD_MANAGER(
        "                    self._populate(registration, populated, undo)\n                    self._registrations",
        "                    self._registrations",
        "a listener gets what is populated when it registers",
        "tests/virtiomem/test_discard.py::test_who_registers_gets_what_is_populated_and_unregistering_takes_it_at_once",
    ),
    _DISCARD_MANAGER(
        "                for registration in reversed(leaving):\n                    self._discard(registration, registration.section.run, undo)",
        "                pass",
        "a listener lets go of all when it is unregistered",
        "tests/virtiomem/test_discard.py::test_who_registers_gets_what_is_populated_and_unregistering_takes_it_at_once",
    ),
    _DISCARD_MANAGER(
        "                self._telling.tell(registration.settle, registration.section.run)\n            self._leaving",
        "                pass\n            self._leaving",
        "a listener that is unregistered is told that what it held is settled",
        "tests/virtiomem/test_told.py::test_every_listener_is_told_of_a_discard_whoever_raises",
    ),
    _DISCARD_MANAGER(
        "            self._check_granularity(source)\n",
        "",
        "a source is not finer than what listeners were promised",
        "tests/virtiomem/test_discard.py::test_a_source_finer_than_what_a_listener_was_promised_is_refused",
    ),
    _DISCARD_MANAGER(
        "                self._discard_all(runs, undo)\n            taken_on",
        "                pass\n            taken_on",
        "a new source takes from listeners what it discards",
        "tests/virtiomem/test_discard.py::test_sources_come_and_go",
    ),
    _DISCARD_MANAGER(
        "        for registration in reversed(self._registrations):\n            for run in registration.clip(runs):\n                self._discard(",
        "        for registration in self._registrations:\n            for run in registration.clip(runs):\n                self._discard(",
        "listeners are told of a discard in reverse order",
        "tests/virtiomem/test_discard.py::test_populate_in_order_of_registration_discard_in_reverse",
    ),
    _DISCARD_MANAGER(
        "            undo.callback(registration.withdraw, run)\n",
        "",
        "a populate that one listener refuses is taken back from the others",
        "tests/virtiomem/test_dma.py::test_a_failing_replay_is_undone_and_raised",
    ),
    _DISCARD_MANAGER(
        "            undo.callback(registration.restore, held)\n",
        "",
        "a discard that one listener refuses is given back to the others",
        "tests/virtiomem/test_transactions.py::test_one_failure_changes_nothing_and_the_next_try_succeeds",
    ),
    _DISCARD_MANAGER(
        "held = subtract(populated, registration.missing.overlap(run))",
        "held = populated",
        "what a listener has lost is not given back to it as held",
        "tests/virtiomem/test_rules_of_change.py::test_what_a_listener_has_lost_is_not_taken_for_held_when_another_change_fails",
    ),
    _DISCARD_MANAGER(
        "        if populated or registration.stale.overlap(run):",
        "        if populated:",
        "what a listener holds wrongly is taken from it, too",
        "tests/virtiomem/test_transactions.py::test_what_a_listener_still_holds_goes_with_unplug_all",
    ),
    _DISCARD_MANAGER(
        'runs = self._populated(run, without=source)\n            self._check_stale(runs)\n            with self._transaction("populate")',
        'runs = self._populated(run, without=source)\n            with self._transaction("populate")',
        "what a listener would not let go of is not populated over",
        "tests/virtiomem/test_transactions.py::test_a_source_populates_nothing_that_a_listener_still_holds",
    ),
    _DISCARD_MANAGER(
        'runs = self._populated(run, without=source)\n            self._check_stale(runs)\n            with self._transaction("populate")',
        'runs = [run]\n            self._check_stale(runs)\n            with self._transaction("populate")',
        "every source must say that a byte is populated",
        "tests/virtiomem/test_discard.py::test_several_sources_populate_what_all_of_them_have",
    ),
    _DISCARD_MANAGER(
        "            self._vacant = union([*self._vacant, *discarded])\n",
        "            pass\n",
        "what a source that retired left discarded stays so",
        "tests/virtiomem/test_closed.py::test_a_device_that_is_closed_leaves_its_manager_and_the_next_one_over_its_memory_is_heard",
    ),
    _DISCARD_MANAGER(
        "            self._confirm(self._registrations, runs)\n\n    @contextmanager\n    def discarding",
        "            pass\n\n    @contextmanager\n    def discarding",
        "what was populated is confirmed for whoever asks",
        "tests/virtiomem/test_dma.py::test_what_is_lost_and_cannot_be_mapped_again_stays_reported",
    ),
    _DISCARD_MANAGER(
        "            self._settle([run])\n",
        "            pass\n",
        "listeners are told that a discard is for good",
        "tests/virtiomem/test_told.py::test_every_listener_is_told_of_a_discard_whoever_raises",
    ),
    _DISCARD_MANAGER(
        "            if diverged := [news for registration in concerned for news in registration.news()]:",
        "            if diverged := []:",
        "a listener that cannot be put back is reported",
        "tests/virtiomem/test_transactions.py::test_a_source_populates_nothing_that_a_listener_still_holds",
    ),
    _DISCARD_MANAGER(
        "return any(registration.stale.overlap(run) for registration in known)",
        "return False",
        "a listener's hold on discarded memory is known",
        "tests/virtiomem/test_transactions.py::test_a_failure_whose_undoing_fails_is_reported_and_repaired",
    ),
    _DISCARD_MANAGER(
        "            for registration in self._registrations:\n                for part in registration.clip([run]):\n                    registration.require_room(part)",
        "            pass",
        "room is asked for before anything is changed",
        "tests/virtiomem/test_ownership.py::test_a_plug_beyond_the_mappings_left_touches_no_memory",
    ),
    _DISCARD_MANAGER(
        "        if not self.lock.acquire(blocking=False):\n            return self._known\n",
        "        self.lock.acquire()\n",
        "known_divergences waits for no change",
        "tests/virtiomem/test_rules_of_change.py::test_what_is_known_of_divergences_waits_for_no_change",
    ),
    _DISCARD_REGISTRATION(
        "            self.stale.remove(run)\n            self._became_stale(_changed(error, run), error)\n            raise",
        "            self._became_stale(_changed(error, run), error)\n            raise",
        "a listener that refused holds nothing of it",
        "tests/virtiomem/test_dma.py::test_a_map_that_cannot_be_undone_is_reported_and_repaired",
    ),
    _DISCARD_REGISTRATION(
        "            # It did not say how far it came.\n            self.withdraw(run)\n",
        "",
        "an interrupted populate is withdrawn",
        "tests/virtiomem/test_dma.py::test_a_map_that_is_interrupted_leaves_nothing_that_is_not_known_of",
    ),
    _DISCARD_REGISTRATION(
        "            self.restore(held)\n            raise\n",
        "            raise\n",
        "an interrupted discard is given back",
        "tests/virtiomem/test_dma.py::test_an_unmap_that_is_interrupted_is_found_out_and_mapped_again",
    ),
    _DISCARD_REGISTRATION(
        "        self._lost.remove(run)\n        self._doubted.remove(run)\n",
        "        self._lost.remove(run)\n",
        "what is missing for certain does not end with a doubt of before",
        "tests/torture/test_torture.py::test_what_was_wrong_once_is_right",
    ),
    _DISCARD_REGISTRATION(
        "        self.missing.remove(run)\n        self.listener.discarded(self._part(run))",
        "        self.missing.remove(run)",
        "a listener is told what is discarded for good",
        "tests/virtiomem/test_told.py::test_every_listener_is_told_of_a_discard_whoever_raises",
    ),
    _DISCARD_REGISTRATION(
        "        for run in self.stale:\n            self.withdraw(run)\n        self.restore",
        "        self.restore",
        "repair takes what is stale",
        "tests/virtiomem/test_dma.py::test_a_map_that_cannot_be_undone_is_reported_and_repaired",
    ),
    _DISCARD_REGISTRATION(
        "        self.restore(list(self.missing))",
        "        pass",
        "repair gives what is missing",
        "tests/virtiomem/test_dma.py::test_what_cannot_be_mapped_again_is_reported_and_repaired",
    ),
    _DISCARD_REGISTRATION(
        "        if self._books is not None:\n            self._books.released(self.section)",
        "        pass",
        "a listener that has left gives its addresses up",
        "tests/virtiomem/test_dma.py::test_100_mib_in_2_mib_blocks_is_50_maps_and_one_unmap",
    ),
    _DISCARD_REGISTRATION(
        '                self._became_missing(found, "it is lost',
        '                str(found) and ("it is lost',
        "what a listener has lost is reported",
        "tests/virtiomem/test_dma.py::test_what_somebody_else_unmapped_is_reported_and_mapped_again",
    ),
    _MAPPING_DMA(
        "        if granularity < page_size or (iova | offset | size) % page_size:",
        "        if False:",
        "a section is whole pages of the IOMMU",
        "tests/virtiomem/test_dma.py::test_sections_that_cannot_be_mapped_are_refused_at_once",
    ),
    _MAPPING_DMA(
        "        if not any(valid.contains(iova, size) for valid in ranges):",
        "        if False:",
        "a section lies where the IOMMU translates",
        "tests/virtiomem/test_dma.py::test_sections_that_cannot_be_mapped_are_refused_at_once",
    ),
    _MAPPING_DMA(
        "                require_free(self._space, section, operation)\n",
        "",
        "a section over a mapping of somebody else's is refused",
        "tests/virtiomem/test_ownership.py::test_a_section_over_a_mapping_of_the_programs_own_is_refused",
    ),
    _MAPPING_DMA(
        "            if self._closed:\n                raise ClosedError",
        "            if False:\n                raise ClosedError",
        "a closed mapper takes no section",
        "tests/virtiomem/test_ownership.py::test_a_claim_goes_with_the_registration_and_with_a_mapper_that_is_dropped",
    ),
    _MAPPING_DMA(
        "            if self._books:\n                raise VfioError(",
        "            if False:\n                raise VfioError(",
        "a mapper that is registered is not closed",
        "tests/virtiomem/test_dma.py::test_a_mapper_in_use_is_not_closed",
    ),
    _MAPPING_DMA(
        "        if left is not None and needed > left:",
        "        if left is not None and needed >= left:",
        "the last mapping can be had",
        "tests/virtiomem/test_ownership.py::test_a_plug_beyond_the_mappings_left_touches_no_memory",
    ),
    _MAPPING_DMA(
        "        if left is not None and needed > left:",
        "        if False:",
        "a plug that has no mappings left is refused before it begins",
        "tests/virtiomem/test_ownership.py::test_a_plug_beyond_the_mappings_left_touches_no_memory",
    ),
    _MAPPING_DMA(
        "            for run in union(done):\n                self._take_back(_part(section, run), error)\n",
        "",
        "a populate that fails takes back what it had mapped",
        "tests/virtiomem/test_rules_of_change.py::test_a_populate_in_pieces_that_fails_takes_back_those_before",
    ),
    _MAPPING_DMA(
        "            books.strike(wanted)\n            books.enter([*stayed, *entered])\n",
        "",
        "books have nothing of a populate that failed",
        "tests/virtiomem/test_ownership.py::test_what_the_program_maps_where_a_block_will_be_is_not_taken_for_the_blocks",
    ),
    _MAPPING_DMA(
        "        require_ours(self.name, section, subtract(there, ours), others)\n",
        "",
        "what somebody else has mapped is not unmapped",
        "tests/virtiomem/test_dma.py::test_what_others_have_mapped_among_the_blocks_is_not_touched",
    ),
    _MAPPING_DMA(
        "                missing = self._map_again(section, gone, books.granularity, error)",
        "                missing = gone",
        "an unmap that fails is mapped again",
        "tests/virtiomem/test_dma.py::test_an_unmap_that_fails_or_falls_short_is_busy_and_maps_again",
    ),
    _MAPPING_DMA(
        "        if returned != expected:",
        "        if False:",
        "an unmap that returns another size is an error",
        "tests/virtiomem/test_dma.py::test_an_unmap_that_fails_or_falls_short_is_busy_and_maps_again",
    ),
    _MAPPING_DMA(
        "        books.strike([section.run])\n        books.unsure = False\n\n    def discarded",
        "        books.unsure = False\n\n    def discarded",
        "books have nothing of what was unmapped",
        "tests/virtiomem/test_dma.py::test_a_map_that_is_interrupted_leaves_nothing_that_is_not_known_of",
    ),
    _MAPPING_DMA(
        "        self._require_known(section)\n",
        "",
        "nothing is mapped over what is in doubt",
        "tests/virtiomem/test_lying_kernel.py::test_what_cannot_be_known_after_a_refusal_is_a_divergence_until_it_is",
    ),
    _MAPPING_DMA(
        "            address_space.on_attach(self._restore)",
        "            pass",
        "the next device finds all that is plugged",
        "tests/virtiomem/test_ownership.py::test_the_next_device_finds_all_that_is_plugged",
    ),
)
