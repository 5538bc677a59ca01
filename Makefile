PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: install demo notebooks evidence evidence-photographs evidence-post format lint fast test fuzz heavy soak docs wheel

# trackio wants a Pillow below 13. Its tests run beside the newest one, so it is installed without its bounds.
TRACKIO = trackio gradio-client brotli python-multipart

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps $(TRACKIO)
	touch $@

demo: install
	$(BIN)/odis demo --out odis-demo

# Runs the notebooks, and writes them with their outputs.
notebooks: install
	OMP_NUM_THREADS=1 $(BIN)/python notebooks/execute.py

# Hours, in slices if wanted: `benchmarks/evidence/run.py --minutes 9`. What is done is not done again.
evidence: install
	$(BIN)/python benchmarks/evidence/run.py --world digits --study core authors-digits
	$(BIN)/python benchmarks/evidence/tables.py --doc $(EVIDENCE) --plots docs/evidence

EVIDENCE = docs/evidence.md docs/evidence/digits.md docs/evidence/photographs.md docs/evidence/findings.md docs/evidence/post-training.md

# The same on photographs: PHOTOGRAPHS is Tiny-ImageNet's folder, VOC is VOCdevkit/VOC2012; more than a day on 2 CPU cores.
evidence-photographs: install
	$(BIN)/python benchmarks/evidence/run.py --world photographs-50 --photographs $(PHOTOGRAPHS) \
		--candidates slow-0.25 --study headroom 100k 300k 30k rates patches authors-one-by-one
	$(BIN)/python benchmarks/evidence/run.py --world photographs-wide --photographs $(PHOTOGRAPHS) --study headroom 100k
	$(BIN)/python benchmarks/evidence/run.py --world voc --voc $(VOC) --candidates slow-0.25 --study headroom 100k
	$(BIN)/python benchmarks/evidence/tables.py --doc $(EVIDENCE) --plots docs/evidence

# A public network made here, trained further on VOC and on NUCLEI (COCO's JSON with masks): hours on 2 CPU cores.
evidence-post: install
	$(BIN)/python benchmarks/evidence/post.py --photographs $(PHOTOGRAPHS) --voc $(VOC) --nuclei $(NUCLEI) --processes 2
	$(BIN)/python benchmarks/evidence/tables.py --doc $(EVIDENCE)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Two processes of one thread each get more done on two cores than one of two threads.
fast test: export OMP_NUM_THREADS ?= 1

# Before a commit: the quick tests of what changed since BASE, by default since the branch left main.
fast: install
	$(BIN)/python -m pytest -x -m 'not slow' $$($(BIN)/python tests/changed.py $(BASE))

test: lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# Small data sets, recipes, runs and models with something broken in each: one-line errors, and counts that add up.
# `make fuzz N=1000 SEED=1 FORMAT=coco`; an input again: `PYTHONPATH=benchmarks python -m fuzz --only NUMBER`.
N ?= 20000
SEED ?= 0
fuzz: install
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m fuzz --inputs $(N) --seed $(SEED) \
		--workers $(WORKERS) $(if $(FORMAT),--format $(FORMAT))

# Files of at most 1 MB that ask for much memory or time, each given to the command that reads it: a line, and no more
# than 4 GiB. `make heavy` in a control group with a limit holds all its processes together to that.
heavy: install
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -W ignore -m fuzz.heavy

# Every command that writes is killed at random moments until it ends by itself, and must have written the same.
# `make soak KILLS=100 SEED=1`; one command: `PYTHONPATH=benchmarks python -m soak --only pretrain`.
KILLS ?= 500
soak: install
	OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m soak --kills $(KILLS) --seed $(SEED)

# The site, in docs/_build/html; nothing is fetched, and a warning is an error.
docs: install
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

# dist/: the source archive, and the wheel that is built from it.
wheel: install
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
