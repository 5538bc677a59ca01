PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test evidence install lint docs

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

demo: install
	$(BIN)/odis demo --out odis-demo

# Hours, in slices if wanted: `benchmarks/evidence/run.py --minutes 9`. What is done is not done again.
evidence: install
	$(BIN)/python benchmarks/evidence/run.py --world scenes --study core
	$(BIN)/python benchmarks/evidence/tables.py --doc docs/evidence.md --plots docs/evidence

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each get more done on two cores than one of two threads.
test: export OMP_NUM_THREADS ?= 1
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The site, in docs/_build/html; nothing is fetched, and a warning is an error.
docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html
