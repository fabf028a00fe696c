# make quickstart   set up .venv and run the whole path on the embedded data set
# make test         set up .venv and run the tests, two at a time
# make check        formatting, lint, types, import rules, freshness of generated pages
# make board        verify the shipped entries and write leaderboards/ anew
# make dist         wheel and sdist, and a trial of the wheel outside the checkout
VENV ?= .venv
BIN := $(VENV)/bin
# the first Python from 3.11 to 3.13; make PYTHON=/path/to/python chooses another
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)

.PHONY: quickstart test check board dist clean

quickstart: $(VENV)/.product
	$(BIN)/snnbench quickstart --out quickstart

test: $(VENV)/.tests
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/.tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy snnbench tests
	$(BIN)/lint-imports
	$(BIN)/snnbench board verify --board leaderboards/entries
	$(BIN)/snnbench board build --board leaderboards/entries --out leaderboards --check

board: $(VENV)/.product
	$(BIN)/snnbench board verify --board leaderboards/entries
	$(BIN)/snnbench board build --board leaderboards/entries --out leaderboards

dist: $(VENV)/.tests
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python tests/try_wheel.py

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "snnbench needs Python 3.11, 3.12 or 3.13; none was found." \
		"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# a stamp tells that the installation ended well; an interrupted one is done again
$(VENV)/.product: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.tests: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[test]'
	touch $@ $(VENV)/.product

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
