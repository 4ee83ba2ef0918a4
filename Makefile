# Everything that a person types. `make demo` and `make test` start from a clean clone with Python
# 3.11, a C++17 compiler, make and git; all other tools come from pip into .venv. What is up to date
# is not built again.
PYTHON ?= python3.11
VENV   ?= .venv
TORCH  ?= torch==2.13.0
# Networks that the tests compare ours with. Their requirements would replace torch by another one.
PEERS  ?= torchvision==0.28.0 timm==1.0.31
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(abspath $(VENV))/bin:$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# One at a time, so that `make -j` can run targets beside each other.
PIP     := flock Makefile $(VENV)/bin/python -m pip
SOURCES := pyproject.toml CMakeLists.txt README.md $(shell find cmake csrc python -type f \
             -not -name '*.pyc' -not -name '*.so')
CXX_SOURCES = $(shell find csrc tests/csrc bench/csrc -name '*.h' -o -name '*.inl' -o -name '*.cpp')

.PHONY: help demo test test-tools build-cpp test-cpp test-python lint instructions instructions-aarch64 \
  instruction-baseline instruction-baseline-aarch64 figures format docs dev wheel-x86_64 wheel-aarch64 wheel-emulated clean

help:  ## list the targets
	@sed -n 's/^\([a-z0-9_ -]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(VENV)/.demo  ## classify a photo with trained weights, fused against torch eager
	weebill classify --compare --threads 1 "$$(python -c 'import skimage; print(skimage.__path__[0])')/data/coffee.png"

test: test-cpp test-python lint  ## all tests and checks

test-tools: build-cpp $(VENV)/.package $(VENV)/.dev-tools  ## all that the tests need, built and installed

build-cpp: $(VENV)/.build-tools
	cmake --preset dev
	cmake --build --preset dev --target weebill_tests

test-cpp: build-cpp  ## C++ tests: every kernel on every instruction set of this machine
	ctest --preset dev

test-python: $(VENV)/.package $(VENV)/.dev-tools  ## Python tests against the installed package
	python -m pytest -n $(JOBS)

lint: $(VENV)/.package $(VENV)/.dev-tools  ## formatting, lint, types, import rules
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	clang-format --dry-run --Werror $(CXX_SOURCES)

instructions: $(VENV)/.build-tools  ## instruction counts of kernels and blocks against the baseline
	$(call instructions,release,check)

instructions-aarch64: $(VENV)/.build-tools  ## the same of the NEON kernels, emulated
	$(call instructions,arm64,check)

instruction-baseline: $(VENV)/.build-tools  ## count again and store: the new baseline
	$(call instructions,release,update)

instruction-baseline-aarch64: $(VENV)/.build-tools  ## the same of the NEON kernels
	$(call instructions,arm64,update)

define instructions
cmake --preset $(1)
cmake --build --preset $(1) --target bench_kernels
$(VENV)/bin/python -m bench.instructions $(2) build/$(1)/bench/csrc/bench_kernels
endef

figures: $(VENV)/.figures  ## charts and tables of README and docs from bench/results
	$(VENV)/bin/python bench/figures.py

format: $(VENV)/.dev-tools  ## rewrite the sources in the project's format
	ruff check --fix .
	ruff format .
	clang-format -i $(CXX_SOURCES)

dev: $(VENV)/.dev-tools  ## install editable: Python edits count at once, native ones after `make dev`
	$(PIP) install --no-build-isolation -e '.[all]'
	touch $(VENV)/.package

wheel-x86_64 wheel-aarch64: wheel-%: $(VENV)/.build-tools  ## a manylinux wheel in dist/ for that architecture
	scripts/build_wheel.sh $*

wheel-emulated: $(VENV)/.package  ## the aarch64 wheel and C++ tests on emulated boards; TORCH_AARCH64="2.7.1 2.13.0": torch ops too
	scripts/emulate_aarch64.sh $(foreach version,$(TORCH_AARCH64),--torch $(version))

docs: $(VENV)/.docs-tools  ## the documentation as a site, build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

clean:  ## remove builds and the environment
	rm -rf build dist $(VENV)

# Build tools and the pinned torch come first: the package is built without isolation, against the
# torch that it will run with.
$(VENV)/.build-tools: Makefile pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install '$(TORCH)' --group build
	touch $@

$(VENV)/.package: $(VENV)/.build-tools $(SOURCES)
	$(PIP) install --no-build-isolation -v '.[all]'
	touch $@

$(VENV)/.demo: $(VENV)/.package
	$(PIP) install --quiet --group demo
	touch $@

$(VENV)/.docs-tools: $(VENV)/.build-tools
	$(PIP) install --quiet --group docs
	touch $@

$(VENV)/.figures: $(VENV)/.package
	$(PIP) install --quiet --group figures
	touch $@

$(VENV)/.dev-tools: $(VENV)/.build-tools
	$(PIP) install --quiet --group dev --group demo
	$(PIP) install --quiet --no-deps $(PEERS)
	touch $@
