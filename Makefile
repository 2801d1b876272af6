# Every target sets up what it needs by itself: see tools/setup.

PYTHON = .venv/bin/python
# Compiled files are wanted, whatever the user's habit: making them takes a virtual machine long.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test test-fast test-python test-matrix torture conformance check docs format bench bench-vm clean

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/run  ## virtio-mem and VFIO together, on the simulated kernel
	.venv/bin/virtiomem demo

test: .venv/dev  ## all tests, on the simulated kernel and on a real one in a virtual machine
	@tools/setup machine
	$(PYTHON) -m pytest

test-fast: .venv/dev  ## all tests that need no virtual machine
	$(PYTHON) -m pytest --kernel simulated --numprocesses auto --maxprocesses 4 --dist worksteal

test-python: .venv/dev  ## all tests that need no virtual machine, under the newest Python that Debian has
	$(PYTHON) tools/newest-python -m pytest --kernel simulated --numprocesses auto --maxprocesses 4 --dist worksteal

test-matrix: .venv/dev  ## the tests of the kernel interface on every kernel and IOMMU model
	@tools/setup machine
	$(PYTHON) -m pytest tests/every_kernel --kernel simulated --kernel debian-6.1 --kernel debian-6.12 \
	    --kernel debian-6.18 --kernel debian-7 --kernel built --kernel built-compat \
	    --iommu intel --iommu amd --iommu virtio --iommu none

torture: .venv/dev  ## the long form of the promises: writes docs/reliability.md; hours
	$(PYTHON) -m tests.torture

conformance: .venv/dev  ## every case of the kernel interface on every kernel: writes docs/conformance.md
	@tools/setup machine
	PYTHONPATH=tools $(PYTHON) -m tests.conformance.document

check: .venv/dev docs  ## ruff, mypy --strict, the house by its table, and the documentation without a warning
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	$(PYTHON) tools/house

docs: .venv/dev  ## the documentation as a site, in build/site; any warning is an error
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

format: .venv/dev  ## put the code in ruff's format, and the reference page in step with its docstrings
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	$(PYTHON) tools/reference

bench: .venv/dev  ## what Python costs, with goals, and how fast memory is populated
	$(PYTHON) -m benchmarks.small_calls
	$(PYTHON) -m benchmarks.populate

bench-vm: .venv/dev  ## how fast blocks are mapped on a real kernel, beside a loop in C
	@tools/setup machine
	tools/vm --memory 3072 --hugepages 512 -- python -m benchmarks.map_blocks

clean:  ## remove what the targets made here
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/run: pyproject.toml tools/setup
	@tools/setup run
	@touch $@

.venv/dev: pyproject.toml tools/setup
	@tools/setup dev
	@touch $@
