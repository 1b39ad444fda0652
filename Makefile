# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.
# The environment is made once; delete .venv to have it made again.

PYTHON ?= python3
PROFILE ?=
SECTION ?= all
BIN := .venv/bin
LONG := --timeout 14400 -o faulthandler_timeout=14400

# Tests start hundreds of processes; where nothing is kept, each compiles the package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test soak serve lint format perf clean

demo: .venv/installed
	$(BIN)/rag demo $(if $(PROFILE),--profile $(PROFILE))

# Four at a time, though there may be two cores: many tests wait for processes of theirs.
test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder --durations 12

# The long proofs, of which `make test` runs samples. About an hour: a kill takes 14 s.
soak: .venv/installed-dev
	RAG_SOAK_KILLS=200 $(BIN)/python -m pytest $(LONG) -s tests/crash
	RAG_SOAK_NOTEBOOK=1 $(BIN)/python -m pytest $(LONG) tests/eval/test_notebook.py
	RAG_SOAK_TENANT_STEPS=10000 $(BIN)/python -m pytest $(LONG) \
		tests/services/test_tenancy.py
	RAG_SOAK_SCHEMA_SECONDS=1200 $(BIN)/python -m pytest $(LONG) -s \
		tests/services/test_contract.py
	RAG_SOAK_ROWS=1000 $(BIN)/python -m pytest $(LONG) tests/services/test_score_batch.py
	RAG_SOAK_CALIBRATION=1 $(BIN)/python -m pytest $(LONG) tests/eval/test_citations.py
	RAG_SOAK_DISCONNECTS=1000 $(BIN)/python -m pytest $(LONG) --log-cli-level=INFO \
		tests/services/test_disconnects.py
	RAG_SOAK_OUTAGE_SECONDS=60 RAG_SOAK_LEASE_SECONDS=30 RAG_SOAK_DOCUMENTS=100 \
		$(BIN)/python -m pytest $(LONG) -s tests/outage

serve: .venv/installed
	$(BIN)/rag serve $(if $(PROFILE),--profile $(PROFILE))

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Speed beside what users otherwise run. Installs those (some gigabytes) on first use.
perf: .venv/installed-dev
	$(BIN)/python -m eval.perf install
	$(BIN)/python -m eval.perf $(SECTION)

clean:
	rm -rf .venv

# The pins in constraints.txt make every machine the same; a changed pin installs again.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ragstone needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,postgres]'
	touch $@
