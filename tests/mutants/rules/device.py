"""The device: requests, blocks, what is undone, states."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_DEVICE_RULES = Rules("virtiomem/device/rules.py")
_DEVICE_BLOCKS = Rules("virtiomem/device/blocks.py")
_DEVICE_DEVICE = Rules("virtiomem/device/device.py")
_DEVICE_REGION = Rules("virtiomem/device/region.py")
_DEVICE_STATE = Rules("virtiomem/device/state.py")
_RUNS = Rules("virtiomem/runs.py")

DEVICE = (
    _DEVICE_RULES(
        "if request.addr % config.block_size:",
        "if False:",
        "a request begins at a block",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "    if not size:\n",
        "    if False:\n",
        "a request names at least one block",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "request.addr < usable.start or ",
        "",
        "no request lies before the region",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "request.addr + size > usable.end",
        "request.addr > usable.end",
        "no request reaches past the usable region",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "request.addr + size > usable.end",
        "request.addr + size >= usable.end",
        "the last usable block can be asked for",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "usable = Run(config.addr, config.usable_region_size)",
        "usable = Run(config.addr, config.region_size)",
        "what is not usable yet is refused",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "if wanted > config.requested_size:",
        "if wanted >= config.requested_size:",
        "as much as is requested can be plugged",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "if wanted > config.requested_size:",
        "if False:",
        "no more than is requested is plugged",
        "tests/virtiomem/test_state.py::test_a_device_goes_on_where_another_was",
    ),
    _DEVICE_RULES(
        "        if not block_map.all_unplugged(blocks):",
        "        if False:",
        "a plugged block is not plugged again",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "    elif not block_map.all_plugged(blocks):",
        "    elif False:",
        "an unplugged block is not unplugged again",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "return BlockState.UNPLUGGED if block_map.all_unplugged(blocks) else BlockState.MIXED",
        "return BlockState.UNPLUGGED",
        "STATE of some plugged blocks is MIXED",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_RULES(
        "(request.addr - config.addr) // config.block_size",
        "request.addr // config.block_size",
        "blocks count from the region's address",
        "tests/virtiomem/test_state.py::test_a_device_goes_on_where_another_was",
    ),
    _DEVICE_BLOCKS(
        "if run.start < 0 or run.size < 0 or run.end > self.count:",
        "if run.start < 0 or run.size < 0:",
        "a run outside the map is refused",
        "tests/virtiomem/test_blocks.py::test_a_run_outside_changes_nothing",
    ),
    _DEVICE_BLOCKS(
        "self.plugged += (run.size if flag == _PLUGGED else 0) - before",
        "self.plugged += (run.size if flag == _PLUGGED else -run.size)",
        "plugging twice counts once",
        "tests/virtiomem/test_blocks.py::test_plugging_counts_each_block_once",
    ),
    _DEVICE_BLOCKS(
        "stop = end if stop < 0 else stop",
        "stop = end",
        "runs are maximal and end where the blocks do",
        "tests/virtiomem/test_blocks.py::test_plugging_counts_each_block_once",
    ),
    _DEVICE_BLOCKS(
        "return self._flags.find(_UNPLUGGED, run.start, run.end) < 0",
        "return self._flags.find(_UNPLUGGED, run.start, run.end - 1) < 0",
        "the last block of a run counts",
        "tests/virtiomem/test_blocks.py::test_plugging_counts_each_block_once",
    ),
    _DEVICE_BLOCKS(
        "        with self._lock:\n            before = self._flags.count(_PLUGGED, run.start, run.end)\n            self._flags[run.start : run.end] = flag * run.size\n            self.plugged += (run.size if flag == _PLUGGED else 0) - before",
        "        if True:\n            before = self._flags.count(_PLUGGED, run.start, run.end)\n            self._flags[run.start : run.end] = flag * run.size\n            self.plugged += (run.size if flag == _PLUGGED else 0) - before",
        "whoever asks while blocks change sees the map of one moment: changes have the lock",
        "tests/virtiomem/test_rules_of_change.py::test_blocks_change_and_are_listed_under_a_lock",
    ),
    _DEVICE_BLOCKS(
        "        with self._lock:\n            start = find",
        "        if True:\n            start = find",
        "whoever asks while blocks change sees the map of one moment: questions have the lock",
        "tests/virtiomem/test_rules_of_change.py::test_blocks_change_and_are_listed_under_a_lock",
    ),
    _DEVICE_DEVICE(
        "            if self.broken:\n",
        "            if False:\n",
        "a device that is broken answers nothing until it is reset",
        "tests/virtiomem/test_device.py::test_a_violation_breaks_the_device_until_a_reset",
    ),
    _DEVICE_DEVICE(
        "self._telling.tell(self._live.break_off, broken=True)",
        "pass",
        "what breaks the protocol breaks the device",
        "tests/virtiomem/test_state.py::test_a_device_goes_on_where_another_was",
    ),
    _DEVICE_DEVICE(
        "                if not self._region.reclaim():\n",
        "                if False:\n",
        "close() gives back what earlier failures left, or says that it does not",
        "tests/virtiomem/test_rules_of_change.py::test_close_gives_back_what_an_earlier_failure_has_left_or_says_that_it_does_not",
    ),
    _DEVICE_DEVICE(
        "                self._region.leave()\n",
        "                pass\n",
        "a device that is closed decides no more",
        "tests/virtiomem/test_closed.py::test_a_device_that_is_closed_leaves_its_manager_and_the_next_one_over_its_memory_is_heard",
    ),
    _DEVICE_DEVICE(
        "        self._require_not_migrating(request.type.name.lower())\n",
        "",
        "no block changes while the device migrates",
        "tests/virtiomem/test_state.py::test_it_stays_as_it_is_while_migrating",
    ),
    _DEVICE_DEVICE(
        "        if is_kept := bool(self._blocks.plugged):\n            self._require_not_migrating(operation)",
        "        if is_kept := bool(self._blocks.plugged):\n            pass",
        "nothing is unplugged by UNPLUG_ALL while the device migrates",
        "tests/virtiomem/test_state.py::test_it_stays_as_it_is_while_migrating",
    ),
    _DEVICE_DEVICE(
        "            self._live.plugged(self._region.plugged_size)\n",
        "            pass\n",
        "the config says how much is plugged",
        "tests/virtiomem/test_state.py::test_a_device_goes_on_where_another_was",
    ),
    _DEVICE_DEVICE(
        "        self._telling.tell(self._size_events.put, self.plugged_size)\n",
        "",
        "whoever listens is told of the plugged size",
        "tests/virtiomem/test_told.py::test_an_event_that_raises_changes_no_answer",
    ),
    _DEVICE_DEVICE(
        '                self._require_not_migrating("load state")\n',
        "",
        "no state is loaded while the device migrates",
        "tests/virtiomem/test_rules_of_change.py::test_no_state_is_loaded_while_the_device_migrates",
    ),
    _DEVICE_DEVICE(
        "            loaded.check(self.config, self._features)\n",
        "",
        "a state that does not fit is refused",
        "tests/virtiomem/test_state.py::test_a_state_that_does_not_fit_is_refused_and_named",
    ),
    _DEVICE_DEVICE(
        "            self._telling.tell(self._live.negotiate, accepted_features(features, self._features))",
        "            self._telling.tell(self._live.negotiate, features)",
        "only features that were offered are accepted",
        "tests/virtiomem/test_device_options.py::test_features",
    ),
    _DEVICE_DEVICE(
        "shrunk = partial(self._live.commit, is_shrunk=True)",
        "shrunk = partial(self._live.commit, is_shrunk=False)",
        "UNPLUG_ALL shrinks the usable region with what is recorded",
        "tests/virtiomem/test_keeper.py::test_every_change_is_kept_when_it_is_told",
    ),
    _DEVICE_DEVICE(
        "            self._telling.tell(self._counters.refused, error)\n            self._telling.tell(self._events.request_refused, request, error)",
        "            self._telling.tell(self._counters.refused, error)",
        "whoever listens is told why a request was refused",
        "tests/virtiomem/test_device.py::test_answers",
    ),
    _DEVICE_REGION(
        "            memory.discard(region.start, region.size)\n            undo.pop_all()",
        "            undo.pop_all()",
        "a new device's memory is empty",
        "tests/virtiomem/test_device.py::test_a_device_starts_empty",
    ),
    _DEVICE_REGION(
        "            undo.callback(discards.remove_source, self)\n",
        "",
        "a device that cannot be made leaves no source",
        "tests/virtiomem/test_transactions.py::test_a_device_that_cannot_start_leaves_nothing",
    ),
    _DEVICE_REGION(
        "            undo.callback(self._give_back, run)\n",
        "",
        "a plug that fails gives its pages back",
        "tests/virtiomem/test_state.py::test_whatever_fails_while_loading_is_undone_and_the_next_try_succeeds",
    ),
    _DEVICE_REGION(
        "                commit.callback(self.blocks.unplug, blocks)\n",
        "",
        "a plug that fails leaves its blocks unplugged",
        "tests/virtiomem/test_keeper.py::test_what_cannot_be_kept_is_not_done",
    ),
    _DEVICE_REGION(
        "            self._record(keep, without=blocks)\n",
        "",
        "an unplug is recorded before memory is discarded",
        "tests/virtiomem/test_keeper.py::test_every_change_is_kept_when_it_is_told",
    ),
    _DEVICE_REGION(
        "            self._memory.discard(run.start, run.size)\n            for plugged",
        "            for plugged",
        "the memory of unplugged blocks is given back",
        "tests/virtiomem/test_state.py::test_whatever_fails_while_loading_is_undone_and_the_next_try_succeeds",
    ),
    _DEVICE_REGION(
        "                commit.callback(self.blocks.plug, plugged)\n",
        "                pass\n",
        "an unplug that fails leaves its blocks plugged",
        "tests/virtiomem/test_interrupted.py::test_wherever_a_request_is_interrupted_the_next_one_finds_all_in_step",
    ),
    _DEVICE_REGION(
        "        self._require_discarded(run)\n        self._require_below",
        "        self._require_below",
        "nothing is plugged over pages that an earlier failure left",
        "tests/virtiomem/test_transactions.py::test_blocks_that_a_listener_still_holds_are_not_plugged",
    ),
    _DEVICE_REGION(
        "        self._require_below(limit - run.size)\n",
        "",
        "a guest has no more than is requested, with what listeners would not let go of",
        "tests/virtiomem/test_refusals.py::test_what_a_stuck_listener_holds_counts_as_plugged",
    ),
    _DEVICE_REGION(
        '        with busy("plug", BusyReason.MAPPING_REFUSED):\n            self._discards.require_room(run)\n',
        "",
        "a plug beyond the mappings left touches no memory",
        "tests/virtiomem/test_ownership.py::test_a_plug_beyond_the_mappings_left_touches_no_memory",
    ),
    _DEVICE_REGION(
        "            if self._given_up:\n",
        "            if False:\n",
        "a plug that is given up ends",
        "tests/virtiomem/test_population.py::test_a_plug_that_is_given_up_is_busy_and_leaves_nothing",
    ),
    _DEVICE_REGION(
        "            if not self._discards.holds(unplugged):\n                with suppress(OSError):\n                    self._memory.discard",
        "            if True:\n                with suppress(OSError):\n                    self._memory.discard",
        "memory that a listener still holds is not given back",
        "tests/virtiomem/test_transactions.py::test_a_failure_whose_undoing_fails_is_reported_and_repaired",
    ),
    _DEVICE_STATE(
        "if not config.block_size or config.region_size % config.block_size:",
        "if config.region_size % config.block_size:",
        "a state with blocks of size 0 is refused",
        "tests/fuzz/test_parsers.py::test_a_parser_returns_or_raises_its_own_error",
    ),
    _DEVICE_STATE(
        " or bits.bit_count() * config.block_size != config.plugged_size",
        "",
        "a state's blocks add up to its plugged size",
        "tests/virtiomem/test_state.py::test_a_state_that_does_not_fit_is_refused_and_named",
    ),
    _DEVICE_STATE(
        "        if flags & ~_BROKEN:",
        "        if False:",
        "a state with flags of a later version is refused",
        "tests/virtiomem/test_state.py::test_a_state_that_does_not_fit_is_refused_and_named",
    ),
    _DEVICE_STATE(
        "        if device.plugged_size:\n",
        "        if False:\n",
        "a state is loaded where nothing is plugged",
        "tests/virtiomem/test_state.py::test_a_device_with_plugged_blocks_loads_nothing",
    ),
    _RUNS(
        "        if start < end:\n            result.append(Run(start, end - start))\n        if a.end",
        "        if start <= end:\n            result.append(Run(start, end - start))\n        if a.end",
        "an intersection has no empty runs",
        "tests/virtiomem/test_runs.py::test_set_operations",
    ),
)
