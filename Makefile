# Everything runs in one environment, .venv; a CPU build of PyTorch is taken where one is offered.
PYTHON ?= python3
BIN := .venv/bin
# One compute thread in each of two test processes: threads that spin would stop each other.
TEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: venv demo test test-all check format bench clean

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

check: venv  ## lint, format, types, and shapes of every annotated function
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo
