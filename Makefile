# make app: set up and start the app.  make test: set up and run every check.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# a browser, a server and models need both cores
BROWSER := tests/app/test_browser.py tests/app/test_visitors.py

.PHONY: app test lint bench readme clean

$(BIN)/.app: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

$(BIN)/.dev: $(BIN)/.app requirements-dev.txt
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

app: $(BIN)/.app
	$(BIN)/python app.py $(ARGS)

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(BROWSER))
	$(BIN)/python -m pytest $(BROWSER)

bench: $(BIN)/.app
	$(BIN)/python -m vlmcomp bench --all

readme: $(BIN)/.app
	$(BIN)/python -m vlmcomp report --readme README.md

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
