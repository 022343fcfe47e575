# Every target does all the set-up it needs: a virtual environment, dependencies at tested versions, the package itself.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# what a device has: Python 3.10 (JetPack 6), numpy, onnxruntime; no torch
DEVICE_PYTHON ?= python3.10
DEVICE := .venv-3.10
NEED_TORCH := $(addprefix tests/test_,$(addsuffix .py,aarch64 adapt bindings calibrate_cameras cli cli_engines cli_live cuda engines export fleet fuse gate gpu_check learn_cameras live models original packaging parallel precision publish readme reconstruction refit refresh registry remote_registry renewal report slots soundness swap synchronise tensorrt_backend trainer triton virtual))

# NVIDIA's Python bindings without NVIDIA's libraries. Tests load them over stubs: what TensorRT's classes have in each
# version, and how CUDA is called. pycuda has no wheel; it is compiled once (a minute and a half, needs gcc and Python.h).
BINDINGS := .bindings
BINDINGS_BUILD := $(BINDINGS)/build
TENSORRT_BINDINGS := tensorrt-cu12-bindings==10.3.0 tensorrt-cu12-bindings==10.16.1.11 tensorrt-cu13-bindings==11.4.0.106
CUDA_HEADERS := nvidia-cuda-runtime==13.0.96 nvidia-cuda-profiler-api==13.0.85
PYCUDA := pycuda==2026.1
CUDA_BINDINGS := cuda-bindings==13.5.0
define PYCUDA_SITECONF
CUDA_ENABLE_CURAND = False
CUDA_INC_DIR = ["$(CURDIR)/$(BINDINGS_BUILD)/headers/nvidia/cu13/include"]
CUDADRV_LIB_DIR = ["$(CURDIR)/$(BINDINGS_BUILD)"]
CXXFLAGS = ["-O0", "-g0"]
LDFLAGS = ["-Wl,-z,lazy"]
endef
export PYCUDA_SITECONF

# Triton's configuration schema, beside the environment: the package pins other versions of protobuf and ml_dtypes
TRITON := $(BINDINGS)/triton

PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo test lint test-device bindings resolve-aarch64 fuzz clean
demo: $(VENV)/.installed
	$(BIN)/edgelift demo -o demo

# one thread a process: two processes of two threads each, on two cores, wait for each other most of the time
test: $(VENV)/.viewer bindings lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

bindings: $(BINDINGS)/.installed $(TRITON)/.installed

# part of `test` too; alone it says what a Jetson's pip would find
resolve-aarch64: $(VENV)/.installed
	$(BIN)/pytest tests/test_aarch64.py

lint: $(VENV)/.installed .typing/edgelift
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 poses runtime

# every reader, with a hundred thousand inputs each: an hour or two. More of it: fuzz/README.md
fuzz: $(VENV)/.fuzzer
	$(BIN)/python -m edgelift.fuzz.run

$(VENV)/.fuzzer: $(VENV)/.installed
	$(PIP) -c constraints-3.11.txt -e '.[fuzz]'
	touch $@

$(VENV)/.installed: pyproject.toml constraints-3.11.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints-3.11.txt -e '.[train,calibrate,cpu,rtx,stream,files,fleet,dev]'
	touch $@

# Rerun takes 700 MB, so the demo does without it
$(VENV)/.viewer: $(VENV)/.installed
	$(PIP) -c constraints-3.11.txt -e '.[view]'
	touch $@

test-device: $(DEVICE)/.installed
	$(DEVICE)/bin/pytest $(filter-out $(NEED_TORCH),$(wildcard tests/test_*.py))

$(DEVICE)/.installed: pyproject.toml constraints-3.10.txt
	$(DEVICE_PYTHON) -m venv $(DEVICE)
	$(DEVICE)/bin/pip install --quiet --disable-pip-version-check -c constraints-3.10.txt -e '.[cpu,stream,files]' jsonschema pytest hypothesis
	touch $@

$(BINDINGS)/.installed: | $(VENV)/.installed
	rm -rf $(BINDINGS)
	mkdir -p $(BINDINGS_BUILD)
	for wheel in $(TENSORRT_BINDINGS); do \
		$(PIP) --no-deps --target $(BINDINGS)/$${wheel#*==} $$wheel || exit 1; \
	done
	$(PIP) --no-deps --target $(BINDINGS_BUILD)/headers $(CUDA_HEADERS)
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary pycuda -d $(BINDINGS_BUILD) $(PYCUDA)
	tar -xzf $(BINDINGS_BUILD)/$(subst ==,-,$(PYCUDA)).tar.gz -C $(BINDINGS_BUILD)
	echo "$$PYCUDA_SITECONF" > $(BINDINGS_BUILD)/$(subst ==,-,$(PYCUDA))/siteconf.py
	echo 'int cuInit(unsigned flags) { return 0; }' \
		| gcc -shared -fPIC -x c - -Wl,-soname,libcuda.so.1 -o $(BINDINGS_BUILD)/libcuda.so
	$(PIP) --target $(BINDINGS)/cuda $(BINDINGS_BUILD)/$(subst ==,-,$(PYCUDA)) $(CUDA_BINDINGS)
	rm -rf $(BINDINGS_BUILD)
	touch $@

$(TRITON)/.installed: $(BINDINGS)/.installed
	rm -rf $(TRITON)
	$(PIP) --no-deps --target $(TRITON) tritonclient==2.73.0
	touch $@

# static tools cannot see an editable install's import hook: this link shows them the package under its own name
.typing/edgelift:
	mkdir -p .typing
	ln -sfn .. $@

clean:
	rm -rf $(VENV) $(DEVICE) $(BINDINGS) .typing build *.egg-info demo
