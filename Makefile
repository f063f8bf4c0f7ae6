# Everything runs in one environment, .venv; a CPU build of PyTorch is taken where one is offered.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-all check format bench clean

venv: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: venv  ## train a NaViT and a square ViT on generated images, and write demo/report.html
	$(BIN)/patchpack demo --out demo

test: venv  ## the default tests, minutes on 2 cores
	$(BIN)/python -m pytest

test-all: venv  ## the slow ones too, and those on a GPU or on the images in $$PATCHPACK_DATA
	$(BIN)/python -m pytest -m ""

check: venv  ## lint, format, types, and shapes of every annotated function
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo
