PYTHON ?= python3
# The backend is the machine's: CUDA where an NVIDIA GPU answers, the CPU elsewhere.
BACKEND ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)

BIN := .venv/bin
LOCK := requirements/$(BACKEND).lock
STAMP := .venv/.$(BACKEND)-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c1-16)
export HF_HUB_OFFLINE ?= 1
# One thread per process: two spinning OpenMP threads on a busy machine are ten times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test test-browser lint lock clean

help:
	@echo 'make setup  environment in .venv from $(LOCK)'
	@echo 'make demo   the whole pipeline in the scripted world; writes runs/demo'
	@echo 'make test   every check: ruff, mypy, pytest'
	@echo 'make test-browser  the report in Chromium, which make test skips where it is missing'
	@echo 'make lint   ruff and mypy alone'
	@echo 'make lock   resolve requirements/*.lock again (needs uv)'
	@echo 'make clean  remove caches and builds, not .venv or runs'
	@echo 'PYTHON=python3.12 takes another interpreter, BACKEND=cpu or cuda another backend'

setup: $(STAMP)

# PyTorch first and alone: pip takes a CPU build where an index offers one. The plain registry
# serves the CUDA build, several gigabytes; PIP_EXTRA_INDEX_URL or PIP_INDEX_URL set to PyTorch's
# CPU wheel index avoids it. The lock is complete, so nothing else is resolved. Python compiles what
# is imported; compiling all of it here would double the time.
$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "make: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) -V 2>/dev/null || echo missing`; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --no-compile --constraint $(LOCK) torch==2.13.0
	$(BIN)/python -m pip install --no-compile --no-deps --requirement $(LOCK)
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@rm -f .venv/.cpu-* .venv/.cuda-*
	@touch $@

demo: setup
	$(BIN)/rlff pipeline configs/demo --run runs/demo

# One thread each, and half of the time is spent in one process: two workers fill two cores.
test: lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Looked for first: pytest would skip what is missing, and succeed.
test-browser: setup
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  command -v chrome >/dev/null || \
	  { echo 'make: Chromium is needed; on Debian: apt-get install chromium' >&2; exit 1; }
	$(BIN)/python -m pip install --no-build-isolation --editable '.[browser]'
	$(BIN)/pytest tests/report/test_report_in_a_browser.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

RESOLVE := uv pip compile pyproject.toml requirements/newer-python.in --extra dev --extra encoder \
  --python-platform x86_64-manylinux_2_28 --python-version 3.11 --no-emit-package torch \
  --custom-compile-command 'make lock' --quiet

# Pins that stand are kept; delete a line, or the file, to move it.
lock:
	$(RESOLVE) --extra cpu --overrides requirements/cpu.override \
	  --excludes requirements/cpu.exclude --output-file requirements/cpu.lock
	$(RESOLVE) --extra cuda --excludes requirements/cuda.exclude --output-file requirements/cuda.lock

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
