# quickstart, test: the two commands of the README. check never writes, fix does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := runs/quickstart
WORKERS ?= 2
DATA ?= bench-data
SEEDS ?= 3
EVALUATIONS ?= 200
OURS ?= 50
PROBLEMS ?= hwgpt:s:a100
SAMPLERS ?= greybox optuna-random optuna-tpe optuna-tpe-multivariate optuna-nsga2 optuna-nsga3
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM := false
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: quickstart test test-all check fix bench bench-search docs clean

$(VENV)/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("paretune needs Python 3.11 or newer, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[quickstart,dev]'
	touch $@

quickstart: $(VENV)/ready
	@if [ -f $(RUN)/run.json ]; then $(BIN)/paretune resume $(RUN); \
	else $(BIN)/paretune search examples/quickstart.yaml --run $(RUN); fi
	@if [ -d $(RUN)/recommended ]; then $(BIN)/paretune verify $(RUN)/recommended; \
	else $(BIN)/paretune export $(RUN) recommended --to $(RUN)/recommended; fi
	@echo
	@echo "front:    $(BIN)/paretune front $(RUN)"
	@echo "page:     $(RUN)/report.html"
	@echo "artifact: $(RUN)/recommended (proved again by: $(BIN)/paretune verify $(RUN)/recommended)"

test: $(VENV)/ready
	$(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not browser and not cluster and not gpu"

test-all: $(VENV)/ready
	$(BIN)/python -m pytest -n $(WORKERS) -rs -m "(slow or browser) and not gpu"
	$(BIN)/python -m pytest -rs -m "cluster and not gpu"

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy -p paretune
	$(BIN)/python -m pytest -q --doctest-modules --ignore=tests --ignore=benchmarks -p no:xdist .
	$(BIN)/python docs/generate.py --check

fix: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	$(BIN)/python docs/generate.py

bench: $(VENV)/ready
	$(BIN)/python -m paretune.benchmarks.search --help

bench-search: $(VENV)/ready
	$(BIN)/python -m paretune.benchmarks.search_table --data $(DATA) --seeds $(SEEDS) \
	    --evaluations $(EVALUATIONS) --ours $(OURS) --problems $(PROBLEMS) \
	    --samplers $(SAMPLERS)

clean:
	rm -rf $(VENV) build dist *.egg-info
