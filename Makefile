# Every target does all the set-up it needs: a virtual environment, dependencies at tested versions, the package itself.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean
demo: $(VENV)/.installed
	$(BIN)/edgelift demo -o demo

test: $(VENV)/.installed lint
	$(BIN)/pytest

lint: $(VENV)/.installed .typing/edgelift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 poses runtime

$(VENV)/.installed: pyproject.toml constraints-3.11.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints-3.11.txt -e '.[train,cpu,dev]'
	touch $@

# static tools cannot see an editable install's import hook: this link shows them the package under its own name
.typing/edgelift:
	mkdir -p .typing
	ln -sfn .. $@

clean:
	rm -rf $(VENV) .typing build *.egg-info demo
