# The doors of the repository. `make quickstart` is the main job, `make test` the proof in ten minutes.
#
#   make quickstart   the whole pipeline on this machine: no network beyond installing, no GPU, no key
#   make test         lint, types, tests (what .ci/run calls)
#   make prove        the long proof, up to an hour: kill storms and the real corpus beside this repository
#   make bench        every speed promise beside its peer, run side by side

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORK ?= work/quickstart

.DEFAULT_GOAL := help
.PHONY: help quickstart test prove bench clean

help:
	@sed -n '3,6s/^# *//p' Makefile

# One stamp for each set of extras: it is made anew when what it installs has changed.
$(VENV)/.quickstart: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[quickstart]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.quickstart

quickstart: $(VENV)/.quickstart
	$(BIN)/build-imaginet run pipelines/quickstart.toml --work $(WORK)

test: $(VENV)/.dev
	$(BIN)/ruff check imaginet_build tests
	$(BIN)/ruff format --check imaginet_build tests
	$(BIN)/mypy
	$(BIN)/pytest -m 'not prove and not slow' --numprocesses 2

# The Hub's client in another language, which reads what was pushed; that proof is skipped where there is no npm.
$(VENV)/js: $(VENV)/.dev
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix $@ @huggingface/hub@2.17.5 || echo "it could not be had"; fi

prove: $(VENV)/.dev $(VENV)/js
	$(BIN)/pytest -m 'prove or slow' --numprocesses 2 --dist loadfile --durations 0

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) work .pytest_cache .ruff_cache .mypy_cache .hypothesis
