# Every target does its own set-up: a fresh clone needs `make demo` or `make test` and nothing before it.
SHELL := /bin/bash
SCRIPTS := $(sort $(wildcard .ci/run tools/*.sh slurm/*.sh slurm/*/*.sh tests/*.sh tests/*/*.sh))
BIN := .venv/bin

.PHONY: help setup demo compare evidence test test-gpu lint format reference audit constraints clean

help: ## Say what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv with pinned dependencies, MPI and Horovod (10 minutes, 8 GB; no root); quick when it is there
	@tools/setup.sh

demo: setup ## Train 4 members without and with WASH on images of digits, print the table, write runs/demo.html
	@tools/demo.sh

compare: setup ## Train every method by one recipe on digits and print one table, all columns (COMPARE=fashion_mnist: on those)
	@source tools/mpi_env.sh && python tools/compare.py --config configs/compare_$(or $(COMPARE),digits).yaml $(COMPARE_ARGS)

evidence: setup ## Train what docs/results.md says of the method (eight to nine hours on two cores; goes on where it stopped), write its tables
	@[[ -e data/text.txt ]] || $(BIN)/python tools/make_dataset.py text data/text.txt
	@source tools/mpi_env.sh && python tools/evidence.py $(EVIDENCE_ARGS)

test: setup ## Run all tests: units, then 1 to 4 MPI ranks, training, and Slurm and GPU where there are any
	@tools/run_tests.sh

test-gpu: setup ## Run the tests that need an NVIDIA GPU
	@tools/run_tests.sh tests/gpu

lint: setup ## Check style, types and shell scripts; changes nothing
	@echo "lint: ruff check"; $(BIN)/ruff check .
	@echo "lint: ruff format --check"; $(BIN)/ruff format --check .
	@echo "lint: mypy"; $(BIN)/mypy
	@echo "lint: bash -n, shellcheck: $(SCRIPTS)"; for script in $(SCRIPTS); do bash -n $$script || exit; done
	@$(BIN)/shellcheck -x $(SCRIPTS)
	@echo "lint: all passed"

format: setup ## Format the Python code and mend what ruff can mend
	@echo "format: ruff format, ruff check --fix"; $(BIN)/ruff format . && $(BIN)/ruff check --fix .

reference: setup ## Write docs/configuration.md and docs/metrics.md out of the code, and the figure of docs/how_wash_works.md
	@$(BIN)/python tools/make_reference.py && $(BIN)/python tools/draw_wash.py

audit: setup ## Ask the databases of vulnerabilities about every pinned package; says so where none answers
	@$(BIN)/python tools/audit.py

constraints: setup ## Resolve all dependencies anew and write constraints.txt
	@tools/pin_dependencies.sh

clean: ## Remove caches, build outputs and what the demo made; keep .venv, other runs and other data
	@echo "clean: removing caches, build/, data/digits, runs/demo*"
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage data/digits* runs/demo runs/demo-* runs/demo.html
	@find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +
