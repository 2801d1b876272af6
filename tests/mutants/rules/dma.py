"""What an address space has mapped, and the kernel's word for it."""

from __future__ import annotations

from tests.mutants.mutant import Rules

_DMA_MAPPING_TABLE = Rules("pyvfio/dma/mapping_table.py")
_DMA_MAPPING_SPACE = Rules("pyvfio/dma/mapping_space.py")
_DMA_PROOFS = Rules("pyvfio/dma/proofs.py")
_DMA_IOVA = Rules("pyvfio/dma/iova.py")
_DMA_REFUSALS = Rules("pyvfio/dma/refusals.py")
_KERNEL_QUERY = Rules("pyvfio/kernel/query.py")

DMA = (
    _DMA_MAPPING_TABLE(
        "        and left.access == right.access\n",
        "",
        "runs of other access are not joined",
        "tests/pyvfio/test_mapping_table.py::test_runs_of_another_kind_are_not_joined",
    ),
    _DMA_MAPPING_TABLE(
        "        and left.granularity == right.granularity\n",
        "",
        "runs of other granularity are not joined",
        "tests/pyvfio/test_mapping_table.py::test_runs_of_another_kind_are_not_joined",
    ),
    _DMA_MAPPING_TABLE(
        "        and left.offset + left.size == right.offset\n",
        "",
        "runs whose memory is apart are not joined",
        "tests/pyvfio/test_mapping_table.py::test_runs_of_another_kind_are_not_joined",
    ),
    _DMA_MAPPING_TABLE(
        "        and left.memory is right.memory\n",
        "",
        "runs of other memory are not joined",
        "tests/pyvfio/test_mapping_table.py::test_runs_of_another_memory_are_not_joined",
    ),
    _DMA_MAPPING_TABLE(
        "        and right.offset % left.granularity == 0\n",
        "",
        "runs are joined where a mapping ends",
        "tests/pyvfio/test_mapping_table.py::test_runs_are_joined_only_where_a_mapping_ends",
    ),
    _DMA_MAPPING_TABLE(
        "        cut += [run for run in runs[-1:] if not _boundary(run, iova + size)]",
        "        pass",
        "no unmap cuts a mapping at its end",
        "tests/pyvfio/test_mappings.py::test_parts_end_at_multiples_of_the_granularity_in_the_memory",
    ),
    _DMA_MAPPING_TABLE(
        "        cut = [run for run in runs[:1] if not _boundary(run, iova)]",
        "        cut: list[MappedRun] = []",
        "no unmap cuts a mapping at its beginning",
        "tests/pyvfio/test_mappings.py::test_single_mappings_stay_apart",
    ),
    _DMA_MAPPING_TABLE(
        "sum([min(run.end, end) - max(run.iova, iova) for run in self._touching(iova, size)])",
        "sum([run.size for run in self._touching(iova, size)])",
        "only what lies in a range counts as covered",
        "tests/every_kernel/test_address_space.py::test_parts_end_at_multiples_of_the_granularity_in_the_memory",
    ),
    _DMA_MAPPING_TABLE(
        "            memory.release(self)\n            del self._held[memory]",
        "            del self._held[memory]",
        "memory of which nothing is mapped is released",
        "tests/pyvfio/test_mappings.py::test_the_memory_is_held_until_its_last_mapping_is_gone",
    ),
    _DMA_MAPPING_TABLE(
        "            self.trust(iova, size)\n        if len",
        "            pass\n        if len",
        "nothing is in doubt of what is gone",
        "tests/pyvfio/test_mapping_table.py::test_nothing_is_in_doubt_of_what_is_gone",
    ),
    _DMA_MAPPING_TABLE(
        "            self.doubt(run.iova, run.size)\n            self.add(run)",
        "            self.add(run)",
        "what is about to be mapped is in doubt",
        "tests/pyvfio/test_mapping_table.py::test_what_is_about_to_be_mapped_is_in_doubt_until_it_is_confirmed",
    ),
    _DMA_MAPPING_TABLE(
        "            self._count_in(before, -1)\n",
        "            pass\n",
        "what is taken out is counted no more",
        "tests/pyvfio/test_mappings.py::test_adjacent_runs_of_one_granularity_become_one",
    ),
    _DMA_MAPPING_TABLE(
        "        with run.memory.lock:\n            self._hold(run.memory)",
        "        if True:\n            self._hold(run.memory)",
        "no memory is discarded while a mapping of it is entered: its lock is held",
        "tests/pyvfio/test_mapping_table.py::test_the_memorys_lock_is_held_while_a_mapping_of_it_is_entered",
    ),
    _DMA_MAPPING_TABLE(
        "        if first and self._runs[first - 1].end > iova:",
        "        if first and self._runs[first - 1].end >= iova:",
        "a run that ends where a range begins is not in it",
        "tests/pyvfio/test_mappings.py::test_like_a_set_of_blocks",
    ),
    _DMA_MAPPING_SPACE(
        "            if other := self._table.overlapping(iova, size):\n                raise",
        "            if other := None:\n                raise",
        "nothing is mapped over a mapping",
        "tests/every_kernel/test_address_space.py::test_overlap_is_refused_by_name",
    ),
    _DMA_MAPPING_SPACE(
        "            check_map_arguments(run, layout.page_sizes[0], layout.iova_ranges)\n            if other",
        "            if other",
        "the kernel is not asked what it would refuse",
        "tests/every_kernel/test_address_space.py::test_bad_arguments_are_refused_before_anything_changed",
    ),
    _DMA_MAPPING_SPACE(
        "            if cut := self._table.bisected(iova, size):\n                raise",
        "            if cut := None:\n                raise",
        "an unmap that would cut a mapping is refused",
        "tests/every_kernel/test_address_space.py::test_unmap_never_splits_a_mapping",
    ),
    _DMA_MAPPING_SPACE(
        "            if not self._table.covered(iova, size):\n",
        "            if False:\n",
        "an unmap of nothing is refused",
        "tests/every_kernel/test_address_space.py::test_nothing_to_unmap_is_an_error",
    ),
    _DMA_MAPPING_SPACE(
        "        if reached < run.size:\n            self._table.remove(run.iova + reached, run.size - reached)\n",
        "",
        "a map that failed is in the books no more",
        "tests/pyvfio/test_container.py::test_a_container_without_dirty_tracking_is_not_taken_for_one_of_iommufd",
    ),
    _DMA_MAPPING_SPACE(
        "            self._unmap(self._unmap_ioctl, run.iova, reached)\n        except",
        "            pass\n        except",
        "a map that failed half-way is taken back",
        "tests/every_kernel/test_bad_input.py::test_a_limit_on_locked_memory",
    ),
    _DMA_MAPPING_SPACE(
        "            self._table.trust(run.iova, run.size)\n        except",
        "            pass\n        except",
        "what the kernel has mapped is not in doubt",
        "tests/pyvfio/test_lying_kernel.py::test_what_is_gone_though_the_kernel_denied_it_is_believed_when_it_can_be_mapped_again",
    ),
    _DMA_MAPPING_SPACE(
        "        if unmapped == expected:\n            self._table.remove(iova, size)",
        "        if True:\n            self._table.remove(iova, size)",
        "an unmap that returns another size than asked is looked at",
        "tests/pyvfio/test_lying_kernel.py::test_what_is_said_to_be_gone_and_is_not_stays_in_the_books",
    ),
    _DMA_MAPPING_SPACE(
        "        if left or not certain <= unmapped <= expected:",
        "        if False:",
        "a short unmap is an error",
        "tests/pyvfio/test_lying_kernel.py::test_what_is_said_to_be_gone_and_is_not_stays_in_the_books",
    ),
    _DMA_MAPPING_SPACE(
        "        self._table.doubt(iova, size)\n        unmapped, refusal",
        "        unmapped, refusal",
        "what is being unmapped is in doubt",
        "tests/pyvfio/test_lying_kernel.py::test_what_is_said_to_be_gone_and_is_not_stays_in_the_books",
    ),
    _DMA_MAPPING_SPACE(
        "                restored = self._proofs.confirm(iova, size)\n                left = self._table.doubted(iova, size)",
        "                restored, left = 0, ()",
        "what a refused unmap took is looked for",
        "tests/pyvfio/test_lying_kernel.py::test_memory_of_a_container_that_cannot_be_unmapped_is_held",
    ),
    _DMA_PROOFS(
        "                if error.errno != errno.EEXIST:\n                    break",
        "                pass",
        "only EEXIST proves that something is mapped",
        "tests/pyvfio/test_lying_kernel.py::test_what_a_refusal_may_have_taken_is_confirmed_when_the_kernel_maps_it_again",
    ),
    _DMA_PROOFS(
        "        held = [part for part in silent if not self._is_gone(part)]",
        "        held: list[MappedRun] = []",
        "a kernel that says nothing is there is not believed",
        "tests/pyvfio/test_lying_kernel.py::test_what_is_said_to_be_gone_and_is_not_stays_in_the_books",
    ),
    _DMA_PROOFS(
        "            if answer == part.size:",
        "            if True:",
        "each mapping's own size proves that it is gone",
        "tests/pyvfio/test_lying_kernel.py::test_what_is_said_to_be_gone_and_is_not_stays_in_the_books",
    ),
    _DMA_PROOFS(
        "                failure = failure or error\n                refused.append(part)",
        "                failure = failure or error",
        "a mapping that the kernel keeps stays in the books",
        "tests/pyvfio/test_lying_kernel.py::test_an_unmap_that_comes_back_short_and_then_fails",
    ),
    _DMA_IOVA(
        "lowest = 0 if self.allow_zero else 1",
        "lowest = 0",
        "address 0 is not given out",
        "tests/pyvfio/test_iova.py::test_like_a_set_of_pages",
    ),
    _DMA_IOVA(
        "iova = fitting[0][1] if self.fit is Fit.FIRST else min(fitting)[1]",
        "iova = fitting[0][1]",
        "the smallest hole that has room is taken with Fit.BEST",
        "tests/pyvfio/test_iova.py::test_the_best_fit_is_the_smallest_hole",
    ),
    _DMA_IOVA(
        "        if index < 0 or self._free[index][1] < iova + size:",
        "        if index < 0:",
        "what is taken is not reserved",
        "tests/pyvfio/test_iova.py::test_like_a_set_of_pages",
    ),
    _DMA_IOVA(
        "        if index and self._free[index - 1][1] == start:\n            start = self._free.pop(index - 1)[0]\n",
        "",
        "holes that touch become one",
        "tests/pyvfio/test_iova.py::test_like_a_set_of_pages",
    ),
    _DMA_IOVA(
        "        left = [(start, iova), (iova + size, end)]",
        "        left = [(iova + size, end)]",
        "what is before an allocation stays free",
        "tests/pyvfio/test_iova.py::test_like_a_set_of_pages",
    ),
    _DMA_IOVA(
        "(-(-valid.start // page_size) * page_size, (valid.last + 1) // page_size * page_size)",
        "(valid.start, (valid.last + 1) // page_size * page_size)",
        "addresses are whole pages",
        "tests/pyvfio/test_iova.py::test_like_a_set_of_pages",
    ),
    _DMA_REFUSALS(
        "    if run.offset < 0 or run.offset + run.size > run.memory.size:",
        "    if False:",
        "no mapping reaches outside its memory",
        "tests/every_kernel/test_address_space.py::test_bad_arguments_are_refused_before_anything_changed",
    ),
    _KERNEL_QUERY(
        "        if offset in seen or offset + ctypes",
        "        if offset + ctypes",
        "a chain of capabilities that runs in a circle is refused",
        "tests/pyvfio/test_mapping_table.py::test_a_chain_of_capabilities_that_runs_in_a_circle_is_refused",
    ),
    _KERNEL_QUERY(
        " or offset + ctypes.sizeof(vfio_info_cap_header) > len(data):",
        ":",
        "a chain of capabilities stays in its struct",
        "tests/fuzz/test_parsers.py::test_a_parser_returns_or_raises_its_own_error",
    ),
    _KERNEL_QUERY(
        "        if offset + count * size > len(self.data):",
        "        if False:",
        "a capability that is too short is refused",
        "tests/fuzz/test_parsers.py::test_a_parser_returns_or_raises_its_own_error",
    ),
)
