# `make demo` and `make test` do all the set-up on a machine with Python and a C++ compiler; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Run rather than looked up: a version manager's shim may be on PATH for a Python that it then cannot start.
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
VENV_CUDA := .venv-cuda
OUT ?= build/bench
# Where this is set, as in a container, every process would compile all of torch's modules once more: 3 seconds each.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL = $(1)/bin/python -m pip install --no-compile --disable-pip-version-check --progress-bar off -c constraints.txt

BUILD_INPUTS := setup.py pyproject.toml constraints.txt $(wildcard build_backend/*.py csrc/* csrc/cpu/* csrc/cuda/*)
CXX_FILES = $(shell git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

.PHONY: help demo notebook test test-all kernels extras lint format docs bench scaling sweep \
	cuda-link cuda-torch clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/demo.stamp ## install into .venv and compare the LSTM layers on real reviews
	@echo "==> rnndrop compare: training the classifier with every layer on movie reviews"
	$(VENV)/bin/rnndrop compare $(ARGS)

notebook: $(VENV)/demo.stamp ## install JupyterLab into .venv and open the seminar's notebook
	$(call PIP_INSTALL,$(VENV)) jupyterlab
	$(VENV)/bin/jupyter lab examples/seminar.ipynb $(ARGS)

# A process a core, each on one thread; tests with two let them sleep: spinning would keep the cores from one another.
PYTEST = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: $(VENV)/dev.stamp ## install into .venv and run the tests, all but the slow ones
	@echo "==> pytest: the tests that are not marked slow"
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/dev.stamp ## run every test: also sanitizers, long schedules, kills, installs
	@echo "==> pytest: every test"
	$(PYTEST) $(ARGS)

kernels: $(VENV)/torch.stamp # compile what the install takes then; by its ninja, as another's files are compiled again
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/python setup.py -q build_ext

extras: $(VENV)/torch.stamp # install what the development install takes, but for this package
	$(call PIP_INSTALL,$(VENV)) -q -r <($(VENV)/bin/python .ci/extras.py)

lint: $(VENV)/dev.stamp ## check style and types
	@echo "==> ruff, mypy, clang-format"
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)

format: $(VENV)/dev.stamp ## rewrite the sources in the house style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

docs: $(VENV)/dev.stamp ## build the site into build/docs; a warning is an error
	@echo "==> sphinx: docs/ into build/docs"
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -b html -d build/doctrees docs build/docs
	@echo "open build/docs/index.html"

bench: $(VENV)/demo.stamp ## time every backend against nn.LSTM, weigh its memory, check the bars, into OUT (build/bench)
	@echo "==> bench.lstm: verify, then time"
	$(VENV)/bin/python -m bench.lstm --out $(OUT)/cpu.csv $(ARGS)
	@echo "==> bench.memory: peak memory"
	$(VENV)/bin/python -m bench.memory --out $(OUT)/memory.csv
	$(if $(ARGS),,$(VENV)/bin/python -m bench.bars $(OUT)/cpu.csv)

scaling: $(VENV)/demo.stamp ## time against T, B, I, H and p with 1 and 2 threads, and draw it, into OUT (build/bench)
	@echo "==> bench.lstm --grid scaling: verify, then time"
	$(VENV)/bin/python -m bench.lstm --grid scaling --threads 1 2 --repeats 7 --out $(OUT)/scaling.csv $(ARGS)
	$(VENV)/bin/python -m bench.curves $(OUT)/scaling.csv

sweep: $(VENV)/demo.stamp ## time ours against nn.LSTM over shapes drawn at random, and draw it, into OUT (build/bench)
	@echo "==> bench.sweep: verify, then time"
	$(VENV)/bin/python -m bench.sweep --out $(OUT)/sweep.csv $(ARGS)

cuda-link: ## build, link and import the CUDA extension; needs nvcc 13 and a 3 GB download, no GPU
	@.ci/cuda-link "$(PYTHON)" "$(VENV_CUDA)"

cuda-torch: # what cuda-link downloads, for who wants it to have come already
	@.ci/cuda-link "$(PYTHON)" "$(VENV_CUDA)" install

clean: ## remove everything that was made
	rm -rf $(VENV) $(VENV_CUDA) build dist *.egg-info rnndrop_cuda/*.so rnndrop_cuda/_build_facts.json

$(VENV)/bin/python:
	@echo "==> Creating $(VENV)"
	@test -n "$(PYTHON)" || { echo "No Python 3.10 or later was found; name one: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# First and by itself, so that the extension is built against this torch. The pip that came with Python may take twice
# as long over all that follows.
$(VENV)/torch.stamp: constraints.txt | $(VENV)/bin/python
	@echo "==> Installing torch into $(VENV)"
	$(call PIP_INSTALL,$(VENV)) --upgrade pip
	$(call PIP_INSTALL,$(VENV)) torch numpy ninja
	@touch $@

$(VENV)/demo.stamp: $(VENV)/torch.stamp $(BUILD_INPUTS)
	@echo "==> Building the kernels and installing rnndrop_cuda, editable, with what the demo needs"
	$(call PIP_INSTALL,$(VENV)) -e '.[demo]'
	$(VENV)/bin/rnndrop info
	@touch $@

$(VENV)/dev.stamp: $(VENV)/torch.stamp $(BUILD_INPUTS)
	@echo "==> Building the kernels and installing rnndrop_cuda, editable, with what the demo, tests and checks need"
	$(call PIP_INSTALL,$(VENV)) -e '.[dev]'
	$(VENV)/bin/rnndrop info
	@touch $@ $(VENV)/demo.stamp
