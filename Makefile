# Needs only make and Python >= 3.11. Everything else goes into $(VENV); what is installed there is
# remembered in stamp files, so that only the first run is slow.

VENV ?= .venv
PORT ?=
BROKER ?=
PYTEST_ARGS ?=
# Processes that share the tests, file by file: most tests wait for a server, so two help on any machine. 0: all in one.
JOBS ?= 2

PY := $(VENV)/bin/python
# -e: an editable install, so that `agents` is found and a change needs no new install.
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check -c requirements.lock -e

.DEFAULT_GOAL := help
.PHONY: help demo test check format bench bench-live simulate faults lock vendor clean

help:
	@echo "make demo    a running worker, a generator and a live dashboard; PORT= and BROKER= may be given"
	@echo "make test    unit, property, contract, simulation and integration tests (PYTEST_ARGS= is passed on; JOBS=0 in one process)"
	@echo "make check   lint, format, types, layers"
	@echo "make format  let ruff put the code in order"
	@echo "make bench   windowed counts beside other libraries, on one Kafka"
	@echo "make bench-live  changes to 2,000 live clients, beside the package websockets and a bare loop"
	@echo "make faults  ROUNDS=60 rounds of SIGKILL, SIGSTOP and broker trouble against exact sums, then three brokers; SEED= repeats one"
	@echo "make lock    resolve requirements.lock anew"
	@echo "make vendor  fetch what the console and its tests carry of npm again, and check it against its lock"
	@echo "make clean   remove $(VENV) and caches"

# A port that is asked for must be free; without one the demo takes the next free after 6066.
demo: $(VENV)/.stamp-run
	@exec $(VENV)/bin/streamflow demo $(if $(PORT),--port '$(PORT)') $(if $(BROKER),--broker '$(BROKER)')

test: $(VENV)/.stamp-dev
	$(PY) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.stamp-dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.stamp-bench
	$(PY) -m tests.bench

bench-live: $(VENV)/.stamp-bench
	$(PY) -m tests.bench.live

simulate: $(VENV)/.stamp-dev
	STREAMFLOW_SEED=$(SEED) $(PY) -m pytest tests/simulation -s -k every_seed

faults: $(VENV)/.stamp-dev
	STREAMFLOW_SEED=$(SEED) STREAMFLOW_FAULT_ROUNDS=$(or $(ROUNDS),60) $(PY) -m pytest tests/faults -s -x 

lock: $(VENV)/.stamp-venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	sed -n '/^#/p' requirements.lock > requirements.lock.new
	$(VENV)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 --strip-extras \
	    --no-annotate --no-header --extra dev --extra bench --extra embedded --extra jwt --extra rocksdb pyproject.toml >> requirements.lock.new
	mv requirements.lock.new requirements.lock

vendor: $(VENV)/.stamp-dev
	$(PY) -m tests.support.vendored fetch

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find agents streamflow tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-run: $(VENV)/.stamp-venv pyproject.toml requirements.lock
	@echo "Installing streamflow into $(VENV) ..."
	@$(INSTALL) '.[embedded]' 2>/dev/null || $(INSTALL) .    # a few platforms have no embedded server
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-venv pyproject.toml requirements.lock
	@echo "Installing streamflow and its development tools into $(VENV) ..."
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/.stamp-run $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-venv pyproject.toml requirements.lock
	@echo "Installing streamflow and what the benchmarks need into $(VENV) ..."
	@$(INSTALL) '.[dev,bench]'
	@touch $(VENV)/.stamp-run $(VENV)/.stamp-dev $@

# A virtual environment holds absolute paths: one that was made for another folder is made anew.
ifneq ($(shell cat '$(VENV)/.stamp-venv' 2>/dev/null),$(CURDIR))
.PHONY: $(VENV)/.stamp-venv
endif

# $(PYTHON) first, if given. Debian's python3 may lack ensurepip, and a version manager's python3.12 may
# be a shell script that only says "not found": so each is tried, not only looked up.
$(VENV)/.stamp-venv:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    old_enough=$$python; \
	    "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || continue; \
	    echo "Making $(VENV) with $$("$$python" --version) ..."; \
	    "$$python" -m venv --clear '$(VENV)' && printf '%s' '$(CURDIR)' > $@ && exit 0; \
	    exit 1; \
	done; \
	if [ -n "$$old_enough" ]; then \
	    echo "$$old_enough cannot make virtual environments: install its venv module (Debian: apt install python3-venv)." >&2; \
	else \
	    echo "streamflow needs Python 3.11 or newer, and none was found. Name one: make PYTHON=/path/to/python3.12 ..." >&2; \
	fi; \
	exit 1
