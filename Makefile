# Every target makes its own environment in .venv when there is none.

PROFILE ?= smoke
CORES   ?= all
PORT    ?= 8000
GPUS    ?= 0

# The first Python that is new enough; `make PYTHON=/path/to/python3.11` chooses another.
PYTHON ?= $(firstword $(foreach python,python3.11 python3 python,$(shell \
  $(python) -c 'import sys, venv; assert sys.version_info >= (3, 11); print("$(python)")' 2>/dev/null)))

BIN       := .venv/bin
STAMP     := .venv/.stamp
CONFIG     = profile=$(PROFILE) gpus=$(GPUS)
# `WITH=profiles/slurm` and the like: who runs the jobs, in place of this machine's cores.
EXECUTION  = $(if $(WITH),--profile $(WITH),--cores $(CORES) --resources gpu=$(GPUS))
SNAKEMAKE  = PATH="$(CURDIR)/$(BIN):$$PATH" snakemake $(EXECUTION) --nolock \
  --rerun-incomplete --keep-going --quiet rules host progress \
  --config $(CONFIG)
# Files side by side; each stays in one process, which makes once what its tests share.
PYTEST     = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
PLAN       = $(BIN)/python -m lpa_core plan --grid $(PROFILE) $(if $(KEEP),--keep)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help book test lint serve plan full pdf teacher-pack links lab set-repository clean

help:  ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo
	@echo 'PROFILE=smoke|laptop|gpu|paper chooses the size of data and networks (now: $(PROFILE)).'
	@echo 'full and plan: KEEP=1 counts records that other code made; GPUS=2 trains on two GPUs.'

$(STAMP): requirements.txt pyproject.toml
	@test -n '$(PYTHON)' || { echo 'error: no Python 3.11 or newer found (tried python3.11, python3, python): install one, or say make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@# Bytecode is made as modules are imported: of all 20,000 files it takes over a minute.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

book: $(STAMP)  ## run the chapters that need it, build the book into _build/html
	@$(SNAKEMAKE) -- book
	@echo 'The book: _build/html/index.html'

lint: $(STAMP)  ## style, types, spelling and the direction of imports
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check --exclude '*.ipynb' .
	$(BIN)/basedpyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell README.md LICENSE CITATION.cff Makefile Snakefile pyproject.toml _config.yml _toc.yml .ci .github book lpa_core notebooks profiles teaching tools tests $(wildcard benchmarks)

test: lint  ## what CI runs: lint, unit tests, every chapter, the book, the browser
	@failed=0; $(PYTEST) -m 'not book and not quiet' || failed=1; \
	$(PYTEST) -m 'book and not quiet' --build || failed=1; \
	$(BIN)/python -m pytest -m quiet || failed=1; exit $$failed

serve: book  ## open the built book
	@(sleep 1; $(BIN)/python -m webbrowser http://localhost:$(PORT) > /dev/null 2>&1) &
	@echo 'http://localhost:$(PORT) (Ctrl-C stops it)'
	@$(BIN)/python -m http.server --bind localhost --directory _build/html $(PORT)

plan: PROFILE = laptop
plan: $(STAMP)  ## what `full` would train and measure, why, and how long it would take
	@$(PLAN)

# What fails is reported, and keeps neither the other steps nor the book from being made.
full: PROFILE = laptop
full: $(STAMP)  ## the laptop profile: train and measure what is missing, then the book
	@$(PLAN) --write _build/plan-$(PROFILE).json
	@failed=0; $(SNAKEMAKE) train=true -- steps || failed=1; \
	$(SNAKEMAKE) -- book || failed=1; exit $$failed
	@echo 'The book: _build/html/index.html'

pdf: book  ## the book as one PDF, _build/learn-to-pay-attention.pdf
	@$(BIN)/python tools/pdf.py _build/source _build/learn-to-pay-attention.pdf > _build/logs/pdf.log || \
	{ tail -5 _build/logs/pdf.log; exit 1; }
	@tail -1 _build/logs/pdf.log

# EXECUTE=1 also runs the instructors' notebooks, whole, where there is no more than Colab has.
teacher-pack: book  ## all that a class needs: _build/teacher-pack, and the same as a zip
	@$(SNAKEMAKE) -- teaching_lab
	@$(BIN)/python tools/teacher_pack.py _build/executed _build/teacher-pack
	@$(if $(EXECUTE),$(BIN)/python -m pytest tests/test_teacher_pack.py --whole)

links: book  ## ask every address that the book links to (needs a network)
	@$(BIN)/jupyter-book build -q --builder linkcheck --path-output _build/links _build/source

lab: $(STAMP)  ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab notebooks

set-repository: $(STAMP)  ## write the repository's address everywhere: URL=https://github.com/OWNER/NAME
	@$(BIN)/python tools/set_repository.py '$(URL)'

clean:  ## remove what was built; .venv, data and trained networks stay
	rm -rf _build .snakemake
