# Everything a developer or a new user runs. `make` alone lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

JOBS ?= $(shell nproc)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Checkouts share the compiler cache: paths below the root count as relative.
export CCACHE_BASEDIR := $(CURDIR)
# ON: with the CUDA backend, which takes an nvcc and many minutes the first time. AUTO: if there is one.
CUDA ?= OFF
# Where pip takes torch from, if not from its default index: a folder or index of CPU-only wheels.
THERIA_TORCH_INDEX ?=
# Of each fuzz target.
FUZZ_SECONDS ?= 600

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

.PHONY: packages
packages:
	@scripts/install_packages.sh

# The Python environment, remade when the pins change.
$(VENV)/.complete: client/python/pyproject.toml client/python/constraints.txt | packages
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "theria: Python 3.10 or newer is needed, $(PYTHON) is older" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(if $(THERIA_TORCH_INDEX),--extra-index-url $(THERIA_TORCH_INDEX)) \
	  --constraint client/python/constraints.txt --editable 'client/python[torch,demo,dev,deploy]'
	@touch $@

.PHONY: build
build: packages $(VENV)/.complete  ## Server, command, kernels and Python packages: build/bin, .venv; CUDA=ON: with it
	cmake --preset release -DTHERIA_CUDA=$(CUDA)
	cmake --build --preset release --parallel $(JOBS)
	@$(BIN)/python client/python/generate.py
	@cmake --install build --component kernels_python --prefix \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/theria_kernels" >/dev/null

.PHONY: demo
demo: build  ## Start a CPU server, check parity, compare MAML modes, write build/demo/report.md
	@$(BIN)/python -m theria.demo --server build/bin/theria-server --cli build/bin/theria --out build/demo

.PHONY: test
test: build  ## All tests: unit, conformance, integration, C++ and Python
	@$(BIN)/python scripts/run_tests.py

.PHONY: deploy-test
deploy-test: build  ## Images built and run on a bare Debian, packages, manifests: root, network, minutes
	@scripts/install_packages.sh --deploy
	@THERIA_DEPLOY_TEST=1 $(BIN)/python -m pytest -q -ra tests/integration/deploy

.PHONY: lint
lint: build  ## clang-format, clang-tidy, ruff, mypy --strict, shellcheck
	@scripts/install_packages.sh --lint
	@scripts/lint.sh

.PHONY: bench
bench: $(VENV)/.complete  ## Benchmarks against peers in the same run; JSON under build/bench
	cmake --preset bench -DTHERIA_CUDA=$(CUDA)
	cmake --build --preset bench --parallel $(JOBS)
	@$(BIN)/python tests/bench/run_all.py --build build/bench

.PHONY: sanitize
sanitize: $(VENV)/.complete  ## The C++ tests under asan with ubsan, then tsan
	@scripts/sanitize.sh

.PHONY: fuzz
fuzz:  ## libFuzzer on what reads strangers' bytes, FUZZ_SECONDS each; needs clang
	@scripts/install_packages.sh --fuzz
	cmake --preset fuzz
	cmake --build --preset fuzz --parallel $(JOBS)
	@scripts/fuzz.sh $(FUZZ_SECONDS)

.PHONY: clean
clean:  ## Remove build/ (not .venv)
	rm -rf build
