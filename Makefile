# SPDX-License-Identifier: Apache-2.0

# The two commands of the README and their parts. CMake does the work: see CMakePresets.json for other builds.
#
# Only targets that depend on `setup`, demo and fuzz install system packages.
# `build`, `venv`, `wheel` and the rest use what the machine has.
.NOTPARALLEL:  # prerequisites run in the order in which they are listed; Ninja and ctest run in parallel by themselves

build := build/release
sources := find include src python/core tests examples benchmarks cmake -name '*.h' -o -name '*.cpp'
# Debian's Python, which has matplotlib. PREFIX='chrt -f 1' measures right on a machine that does other work too.
run_bench = /usr/bin/python3 -B benchmarks/layer/run.py build/benchmarks --prefix '$(PREFIX)'

.DEFAULT_GOAL := help
.PHONY: help setup venv venv-numpy build demo test test-cpp reliability test-numpy test-torch24 test-wheel wheel docs fuzz bench bench-torch bench-build bench-quick bench-ranks scaling instructions messages mutations format format-check clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install missing Debian packages (root or sudo); nothing if none is missing
	@scripts/setup.sh

venv: ## make .venv with PyTorch and MindSpore (8 GB), which the tests of their launchers use
	@scripts/venv.sh

venv-numpy:
	@scripts/venv.sh numpy

build: ## build everything in release mode, in build/release; installs nothing (see setup)
	cmake --preset release $(CMAKE_FLAGS)
	cmake --build --preset release

demo: ## the documented example on two worker processes, then training on digits: have 1 rank and 2 the same bits?
	@scripts/setup.sh --demo
	cmake --preset demo $(CMAKE_FLAGS)
	cmake --build --preset demo
	@scripts/demo.sh build/demo/bin

test: setup venv ## build everything and run every test
	cmake --preset release -DSYNCBN_PYTHON=ON $(CMAKE_FLAGS)
	cmake --build --preset release
	ctest --preset release -j "$$(nproc)"

test-cpp: setup build ## the same without the Python package and without the tests that need .venv
	ctest --preset release -j "$$(nproc)" --label-exclude '^(python|numpy)$$'

test-numpy: setup venv-numpy ## build and test the Python package without PyTorch and MindSpore
	cmake --preset release -DSYNCBN_PYTHON=ON $(CMAKE_FLAGS)
	cmake --build --preset release --target syncbn_package syncbn-run
	ctest --preset release -j "$$(nproc)" --label-regex '^numpy$$'

test-torch24: setup venv ## the tests of syncbn.torch with PyTorch 2.4, in .venv-torch24 (4.5 GB), on the package that test builds
	@scripts/venv.sh torch24
	cmake --preset release -DSYNCBN_PYTHON=ON $(CMAKE_FLAGS)
	cmake --build --preset release --target syncbn_package
	PYTHONPATH=$(build)/python PYTHONDONTWRITEBYTECODE=1 .venv-torch24/bin/python -m pytest -q -p no:cacheprovider tests/python/torch

test-wheel: setup venv ## test what pip install makes, and the wheel of `make wheel`, each in a fresh environment (5 min)
	tests/package/wheel.sh .venv
	scripts/wheel.sh .venv
	tests/package/repaired_wheel.sh build/dist/*.whl .venv

wheel: venv-numpy ## build the wheel to give away, in build/dist: repaired by auditwheel, without the engines of Gloo and MPI
	scripts/wheel.sh .venv

docs: setup venv ## build the site from pages, headers and docstrings, in build/site (1 min); a warning is an error
	@scripts/setup.sh --docs
	cmake --preset release -DSYNCBN_PYTHON=ON $(CMAKE_FLAGS)
	cmake --build --preset release --target syncbn_package
	mkdir -p build/doxygen
	doxygen docs/site/Doxyfile
	PYTHONPATH=$(build)/python PYTHONDONTWRITEBYTECODE=1 .venv/bin/python -m sphinx -q -W --keep-going -c docs/site docs build/site

messages: build ## record the wording of error messages, after a deliberate change
	SYNCBN_MESSAGES=write $(build)/bin/messages_test --gtest_filter=Messages.*
	@if [ -e $(build)/python/syncbn ]; then SYNCBN_MESSAGES=write PYTHONPATH=$(build)/python PYTHONDONTWRITEBYTECODE=1 \
	  .venv/bin/python -m pytest -q -p no:cacheprovider tests/python/arrays/test_messages.py; fi

FAULTS :=
mutations: build ## make deliberate faults, one at a time, and expect red tests (3 min); FAULTS=--quick: a few of them
	tests/mutations/run.py $(build) $(FAULTS)

instructions: build ## record the instruction counts that the tests allow, after a change that is worth them
	cmake --build --preset release --target instructions

bench-build: setup venv
	@scripts/setup.sh --bench
	cmake --preset benchmarks $(CMAKE_FLAGS)
	cmake --build --preset benchmarks

bench: bench-build ## measure against oneDNN, PyTorch and memory (12 min, an idle machine): tables, JSON, pictures, in docs/ and benchmarks/
	$(run_bench)

bench-quick: bench-build ## the same for few shapes, nothing written (2 min)
	$(run_bench) --quick

bench-torch: bench-build ## only syncbn.torch against torch.nn.BatchNorm, nothing written (2 min)
	$(run_bench) --only nn

bench-ranks: setup venv ## measure the ranks of one host against peers (5 min, an idle machine), write docs/ranks.json and docs/performance.md
	cmake --preset release -DSYNCBN_PYTHON=ON $(CMAKE_FLAGS)
	cmake --build --preset release --target syncbn_package syncbn-run
	.venv/bin/python -B benchmarks/ranks/run.py $(build)

# What was simulated with more ranks is kept: 512 take hours.
SCALING_RANKS := 256
scaling: bench-build ## simulate 2 to 256 (SCALING_RANKS) ranks, measure start-up (20 min, an idle machine), write docs/scaling.*
	awk -F, -v most=$(SCALING_RANKS) 'NR == 1 || $$4 > most' docs/scaling.csv > build/scaling.csv
	cp build/scaling.csv docs/scaling.csv
	/usr/bin/python3 -B benchmarks/scaling/run.py $(CURDIR)/build/benchmarks/bin/resnet50 $(SCALING_RANKS)
	/usr/bin/python3 -B benchmarks/startup/run.py build/benchmarks/bin
	/usr/bin/python3 -B benchmarks/scaling/report.py

FUZZ_SECONDS := 1200
fuzz: ## run every fuzz target for FUZZ_SECONDS (1200); needs clang++
	@scripts/setup.sh --ci
	tests/fuzz/run $(FUZZ_SECONDS)

reliability: setup venv ## the whole fault matrix (7 min); RELIABILITY=write puts its outcomes into docs/reliability.md
	cmake --preset release -DSYNCBN_PYTHON=ON $(CMAKE_FLAGS)
	cmake --build --preset release
	SYNCBN_RELIABILITY=$(or $(RELIABILITY),whole) $(build)/bin/reliability_test

format: ## clang-format every source
	$(sources) | xargs clang-format -i

format-check: ## fail where clang-format would change something
	$(sources) | xargs clang-format --dry-run --Werror

clean: ## remove builds and logs
	rm -rf build syncbn_log
