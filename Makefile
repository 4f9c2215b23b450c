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

# The Hub's client in another language, which reads what was pushed, and what drives Chromium; those proofs are skipped where
# there is no npm, or no Chromium.
$(VENV)/js: $(VENV)/.dev
	@if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --prefix $@ @huggingface/hub@2.17.5 playwright-core@1.65.1 || echo "it could not be had"; fi

# A trained GAN that others made, to convert: its wheel alone, by its hash.
$(VENV)/gans: $(VENV)/.dev tests/generators/trained.txt
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest $@ --requirement tests/generators/trained.txt
	@touch $@

# An OpenAI-compatible server that nobody here wrote; it borrows torch and diffusers from the environment beside it.
$(VENV)/museq: $(VENV)/.dev
	$(BIN)/python -m venv $@
	$@/bin/python -m pip install --quiet --constraint constraints.txt 'museq[server]==0.60.2' || { rm -r $@; echo "museq could not be had: its proof is skipped"; }
	@test ! -d $@ || $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$($@/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/beside.pth

prove: $(VENV)/.dev $(VENV)/js $(VENV)/gans $(VENV)/museq
	$(BIN)/pytest -m 'prove or slow' --numprocesses 2 --dist loadfile --durations 0

bench: $(VENV)/.dev
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) work .pytest_cache .ruff_cache .mypy_cache .hypothesis
