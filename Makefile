# Every target does all the set-up it needs: a virtual environment, dependencies at tested versions, the package itself.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# what a device has: Python 3.10 (JetPack 6), numpy, onnxruntime; no torch
DEVICE_PYTHON ?= python3.10
DEVICE := .venv-3.10
NEED_TORCH := $(addprefix tests/test_,$(addsuffix .py,cli export live packaging readme report trainer))

.PHONY: demo test lint test-device clean
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

test-device: $(DEVICE)/.installed
	$(DEVICE)/bin/pytest $(filter-out $(NEED_TORCH),$(wildcard tests/test_*.py))

$(DEVICE)/.installed: pyproject.toml constraints-3.10.txt
	$(DEVICE_PYTHON) -m venv $(DEVICE)
	$(DEVICE)/bin/pip install --quiet --disable-pip-version-check -c constraints-3.10.txt -e '.[cpu]' pytest hypothesis
	touch $@

# static tools cannot see an editable install's import hook: this link shows them the package under its own name
.typing/edgelift:
	mkdir -p .typing
	ln -sfn .. $@

clean:
	rm -rf $(VENV) $(DEVICE) .typing build *.egg-info demo
