# make serve and make test, each alone on a fresh clone, do everything that has to be done before.
# Needs: Python >= 3.11 with venv, a C++17 compiler, a package index.

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The first that runs and is new enough; a command of that name may be a shim that does not run.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
# What is installed before wfserve, since "torch" alone may mean gigabytes of CUDA; empty: what pip chooses.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q
NATIVE := $(wildcard native/*.cpp native/*.hpp)
NATIVE_TESTS := $(wildcard native/tests/*.cpp native/tests/*.hpp)
HOT := $(shell $(PYTHON) native/compile.py --list)
CMAKE := $(or $(shell command -v cmake),$(BIN)/cmake)
DIGITS := $(filter-out %.png %.md,$(wildcard examples/digits/*))
ARCHIVES := workflow_store/digits.war workflow_store/digits_cnn.mar workflow_store/digits_mlp.mar
WORKLOADS := build/workloads
FIGURES := build/bench
SECONDS_PER_CELL ?= 5
REQUESTS ?= 1000000

.PHONY: help install archives serve test test-slow test-native soak conformance lint bench plots compare stubs wheel clean
.DELETE_ON_ERROR:

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 14

serve: install $(ARCHIVES) ## serve the digits example until Ctrl-C, and print a curl line for it
	@exec $(BIN)/wfserve serve --workflow-store workflow_store --workflows digits.war \
		--try digits=examples/digits/digit-7.png

test: install $(ARCHIVES) ## run the tests; those that take minutes: make test-slow
	$(BIN)/python -m pytest -q

test-slow: install $(ARCHIVES) ## run the fault tests that take minutes
	$(BIN)/python -m pytest -q -s -m slow

test-native: $(filter $(BIN)/%,$(CMAKE)) ## stress the native concepts without Python, under the sanitizers
	$(CMAKE) -S native/tests -B build/native-tests
	$(CMAKE) --build build/native-tests
	CTEST_OUTPUT_ON_FAILURE=1 $(CMAKE) --build build/native-tests --target test

soak: install ## a million requests with faults, after which nothing must be left; REQUESTS=1000000
	$(BIN)/python -m tests.soak --requests $(REQUESTS)

conformance: install ## compare with TorchServe 0.12.0: TORCHSERVE=/path/to/its/venv (needs Java 17); without it, wfserve alone
	TORCHSERVE="$(TORCHSERVE)" $(BIN)/python -m pytest -q -m "not gpu" tests/conformance

install: $(VENV)/.installed ## make the virtual environment and build the native module

$(VENV)/.venv:
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || \
		{ echo "no Python >= 3.11 was found; name one with make PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || \
		{ echo "no C++ compiler was found; on Debian: apt-get install g++"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(BIN)/cmake: $(VENV)/.venv
	$(PIP) install "cmake>=3.18"

$(VENV)/.torch: $(VENV)/.venv
	$(if $(TORCH),$(PIP) install $(TORCH))
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml CMakeLists.txt $(NATIVE) native/compile.py $(HOT)
	$(PIP) install -e ".[test,lint,examples]" --config-settings=cmake.define.WFSERVE_WERROR=ON
	@touch $@

archives: install $(ARCHIVES) ## train the example's networks and pack them into workflow_store/

$(ARCHIVES) &: $(DIGITS) | $(VENV)/.installed
	$(BIN)/python examples/digits/build.py
	@touch $(ARCHIVES)

lint: install ## ruff, mypy and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) $(NATIVE_TESTS)
	$(BIN)/python native/stub.py --check

stubs: $(VENV)/.torch ## write wfserve/_native.pyi anew, which what is compiled is checked against
	$(PIP) install -e ".[lint]" --config-settings=cmake.define.WFSERVE_COMPILE=OFF
	@rm -f $(VENV)/.installed
	$(BIN)/python native/stub.py

bench: install ## measure each layer and the whole; SECONDS_PER_CELL=5
	$(BIN)/python -m bench.transport --json $(FIGURES)/transport.json
	$(BIN)/python -m bench.batching --json $(FIGURES)/batching.json
	$(BIN)/python -m bench.workloads.build --out $(WORKLOADS)
	$(BIN)/python -m bench.walk --store $(WORKLOADS) --workflow seq-native.war --body $(WORKLOADS)/seq.bin
	$(BIN)/python -m bench.serve --seconds $(SECONDS_PER_CELL)
	$(BIN)/python -m bench.front
	$(BIN)/python -m bench.restart
	$(BIN)/python -m bench.shared

$(VENV)/.plots: $(VENV)/.installed
	$(PIP) install -e ".[plots]" --config-settings=cmake.define.WFSERVE_WERROR=ON
	@touch $@

plots: $(VENV)/.plots ## draw docs/plots from what the last make bench has found
	$(BIN)/python -m bench.plot --figures $(FIGURES) --out docs/plots

compare: $(VENV)/.plots ## measure beside other servers, which are installed below build/peers; an hour
	TORCH="$(TORCH)" $(BIN)/python -m bench.compare --seconds $(SECONDS_PER_CELL) \
		--json build/compare.json --document docs/performance.md

wheel: install ## build a wheel into dist/
	$(PIP) wheel --no-deps -w dist .

clean: ## remove everything that make made
	rm -rf $(VENV) build dist .wfserve $(ARCHIVES)
