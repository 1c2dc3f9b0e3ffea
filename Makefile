# The commands for users and developers. `make` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Makes paths below the root relative, so that checkouts share the compiler cache.
export CCACHE_BASEDIR := $(CURDIR)
# ON: build the CUDA backend; needs an nvcc, and the first build takes many minutes. AUTO: if there is an nvcc.
CUDA ?= OFF
# An additional folder or index from which pip may take torch, for example of CPU-only wheels.
THERIA_TORCH_INDEX ?=
# Seconds for each fuzz target.
FUZZ_SECONDS ?= 600

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: packages
packages:
	@scripts/install_packages.sh

# The Python environment. It is updated when the pinned versions change.
$(VENV)/.complete: client/python/pyproject.toml client/python/constraints.txt | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "theria: Python 3.10 or newer is needed, $(PYTHON) is older" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(THERIA_TORCH_INDEX),--extra-index-url $(THERIA_TORCH_INDEX)) \
	  --constraint client/python/constraints.txt --editable 'client/python[torch,demo,dev,deploy]'
	@touch $@

.PHONY: build
build: packages $(VENV)/.complete  ## Build server, command, kernels and Python packages in build/bin and .venv; CUDA=ON adds CUDA
	cmake --preset release -DTHERIA_CUDA=$(CUDA) -DTHERIA_JAX_PYTHON=$(CURDIR)/$(BIN)/python
	cmake --build --preset release --parallel $(JOBS)
	@$(BIN)/python client/python/generate.py
	@cmake --install build --component kernels_python --prefix \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/theria_kernels" >/dev/null

.PHONY: demo
demo: build  ## Start a CPU server, check parity, compare MAML modes, write build/demo/report.md
	@$(BIN)/python -m theria.demo --server build/bin/theria-server --cli build/bin/theria --out build/demo

.PHONY: test
test: build  ## Run all tests: unit, conformance, integration, C++ and Python
	@$(BIN)/python scripts/run_tests.py

.PHONY: deploy-test
deploy-test: build  ## Build and run images, packages and manifests on a bare Debian; needs root and the network
	@scripts/install_packages.sh --deploy
	@THERIA_DEPLOY_TEST=1 $(BIN)/python -m pytest -q -ra tests/integration/deploy

.PHONY: lint
lint: build  ## Run clang-format, clang-tidy, ruff, mypy --strict, shellcheck
	@scripts/install_packages.sh --lint
	@scripts/lint.sh

.PHONY: bench
bench: $(VENV)/.complete  ## Run benchmarks against peers in the same run; JSON in build/bench
	cmake --preset bench -DTHERIA_CUDA=$(CUDA)
	cmake --build --preset bench --parallel $(JOBS)
	@$(BIN)/python tests/bench/run_all.py --build build/bench

.PHONY: sanitize
sanitize: $(VENV)/.complete  ## Run the C++ tests under asan with ubsan, then tsan
	@scripts/sanitize.sh

.PHONY: fuzz
fuzz:  ## Fuzz the code that reads untrusted bytes for FUZZ_SECONDS; needs clang
	@scripts/install_packages.sh --fuzz
	cmake --preset fuzz
	cmake --build --preset fuzz --parallel $(JOBS)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: clean
clean:  ## Remove build/ (not .venv)
	rm -rf build
