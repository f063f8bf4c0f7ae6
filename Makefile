# Everything runs in one environment, .venv; a CPU build of PyTorch is taken where one is offered.
PYTHON ?= python3
BIN := .venv/bin
# One compute thread in each of two test processes: threads that spin would stop each other.
TEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: venv demo test test-all test-parity fixtures faults check format bench clean

venv: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: venv  ## train a NaViT and a square ViT on generated images, and write demo/report.html
	$(BIN)/patchpack demo --out demo

test: venv  ## the default tests, minutes on 2 cores
	$(TEST)

test-all: venv  ## the slow ones too, and those on a GPU or on the images in $$PATCHPACK_DATA
	$(TEST) -m ""

# SHARE of the cases of each campaign: 1 is all of them, about an hour on 2 cores.
SHARE ?= 1

faults: venv  ## campaigns of hostile files, damage, kills and full disks: figures of docs/reliability.md
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m faults.table --share $(SHARE)

# The libraries whose weights are converted, in an environment of their own: torchvision, which they
# name, is a CUDA build; hence without dependencies, and then what they import.
ORIGINALS := timm==1.0.31 torchvision==0.28.0 transformers==5.23.0 open_clip_torch==3.3.0
PARITY := .venv-parity/bin

.venv-parity/.ready: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-parity
	$(PARITY)/pip install --quiet --constraint constraints.txt --editable . pytest pytest-timeout
	$(PARITY)/pip install --quiet --no-deps $(ORIGINALS)
	$(PARITY)/pip install --quiet --constraint constraints.txt pyyaml huggingface_hub tokenizers regex tqdm typer ftfy
	@touch $@

test-parity: .venv-parity/.ready  ## converted weights against transformers, timm and open_clip
	OMP_NUM_THREADS=1 $(PARITY)/python -m pytest -W default tests/parity

fixtures: .venv-parity/.ready  ## outputs of the originals, for the default tests
	PYTHONPATH=tests $(PARITY)/python tests/parity/freeze.py

check: venv  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The peers that the benchmarks run beside, in an environment of their own: what they ask for is not
# all wanted (torchvision pulls a CUDA build), hence without dependencies and then what they import.
PEERS := timm==1.0.31 torchvision==0.28.0 vit-pytorch==1.26.11 einops==0.8.2 monai==1.6.1 transformers==5.23.0
BENCH := .venv-bench/bin

.venv-bench/.ready: Makefile pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	$(BENCH)/pip install --quiet --constraint constraints.txt --editable .
	$(BENCH)/pip install --quiet --no-deps $(PEERS)
	$(BENCH)/pip install --quiet --constraint constraints.txt pyyaml huggingface_hub tokenizers regex tqdm typer
	@touch $@

# RESULTS names what is measured on: benchmarks/results/<what>_<hardware>_<yyyymm>
HARDWARE ?= $(shell uname -m)-$(shell nproc)core
RESULTS := benchmarks/results/%_$(HARDWARE)_$(shell date +%Y%m)

bench: .venv-bench/.ready  ## everything that is timed; SIZES=file.csv DATA=folder for real images
	$(BENCH)/python benchmarks/models.py --out $(subst %,models,$(RESULTS))$(if $(SIZES), --sizes $(SIZES))
	$(BENCH)/python benchmarks/huge.py --out $(subst %,huge,$(RESULTS)).md
	$(BENCH)/python benchmarks/loader.py --out $(subst %,loader,$(RESULTS)).md$(if $(DATA), --data $(DATA))
	$(BENCH)/python benchmarks/scaling.py --out $(subst %,scaling,$(RESULTS)).md
	$(BENCH)/python benchmarks/runs.py --out $(subst %,runs,$(RESULTS))$(if $(DATA), --data $(DATA))

clean:
	rm -rf .venv .venv-bench .venv-parity demo
