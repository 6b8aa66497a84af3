# Two commands: `make demo` and `make test`. Both make .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: help install demo test lint types layers tests lock clean

help:
	@echo "make demo     make .venv, then train X-MTL on a miniature world and score it (minutes, offline)"
	@echo "make test     make .venv, then lint, types, layers and tests"
	@echo "make install  make .venv only"
	@echo "make lock     renew constraints.txt from what resolves today"

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"Python 3.11 or 3.12 is needed, $(PYTHON) is {v[0]}.{v[1]}; say make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[detect,server,dev]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/xmtl demo

test: lint types layers tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

layers: $(STAMP)
	$(BIN)/lint-imports

tests: $(STAMP)
	$(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

lock:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report $(VENV)/report.json '.[detect,server,dev]'
	$(BIN)/python -c 'import json; \
	  items = json.load(open("$(VENV)/report.json"))["install"]; \
	  pins = {i["metadata"]["name"]: i["metadata"]["version"] for i in items}; \
	  print("# What `make` installs; renewed by `make lock`."); \
	  [print(f"{n}=={v}") for n, v in sorted(pins.items(), key=str) if n != "xmtl_ray"]' > constraints.txt

clean:
	rm -rf $(VENV) demo runs .mypy_cache .ruff_cache .pytest_cache
