# make app: start the app.  make test: run every check.  make bench: measure.  make docs: update tables and plots.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
# a browser, a server and models need both cores
BROWSER := tests/app/test_browser.py tests/app/test_visitors.py

.PHONY: app bench docs lint test clean

$(BIN)/.app: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.txt
	touch $@

$(BIN)/.bench: $(BIN)/.app requirements-bench.txt
	$(PIP) -r requirements-bench.txt
	touch $@

$(BIN)/.dev: $(BIN)/.bench requirements-train.txt requirements-dev.txt requirements-dev-nodeps.txt
	$(PIP) -r requirements-train.txt -r requirements-dev.txt
	$(PIP) --no-deps -r requirements-dev-nodeps.txt
	touch $@

app: $(BIN)/.app
	$(BIN)/python app.py $(ARGS)

bench: $(BIN)/.bench
	$(BIN)/python -m vlmcomp bench --all

docs: $(BIN)/.bench
	$(BIN)/python -m vlmcomp report --docs

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(BROWSER))
	$(BIN)/python -m pytest $(BROWSER)

clean:
	rm -rf $(VENV) runs .mypy_cache .pytest_cache .ruff_cache
