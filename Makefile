# Two commands do everything on a fresh machine with Python >= 3.11:  make demo   and   make test
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test test-long test-portable check wheel bench docs format clean
.DEFAULT_GOAL := demo

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Separatrix needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.dev: .venv/.core
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.core
	$(BIN)/separatrix analyze demo:digits --out separatrix-report --overwrite

# One thread a worker: two processes that each start two threads fight for the same two cores.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

# Many examples of each property, other ones each time; the failing one is printed as a line that reproduces it.
test-long: .venv/.dev
	HYPOTHESIS_PROFILE=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) tests/properties --hypothesis-show-statistics

# The numerical core again, as a processor without AVX rounds, on any x86: no test may rest on the rounding of one.
test-portable: .venv/.dev
	ATEN_CPU_CAPABILITY=default MKL_ENABLE_INSTRUCTIONS=SSE4_2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not long" \
		tests/flows tests/core/test_orthonormal.py tests/core/test_tangent.py \
		tests/nn/test_blocks.py tests/nn/test_energy.py tests/nn/cells tests/nn/conserving tests/nn/reversible tests/nn/symplectic \
		tests/nn/flows/test_neural_ode.py tests/nn/nonexpansive/test_orthogonal.py tests/bounds/operator_norm \
		tests/analysis/fixed/test_homotopy.py tests/analysis/fixed/test_krylov.py tests/analysis/lyapunov/test_kaplan_yorke.py \
		tests/analysis/gradients tests/analysis/run/test_statistics.py tests/analysis/stepping/test_stability_region.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python docs/tables.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What is built and installed, without the sources beside it, does the main job.
wheel: .venv/.dev
	rm -rf dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m pip install --quiet --no-deps --target dist/installed dist/*.whl
	PYTHONPATH=dist/installed $(BIN)/python tests/smoke.py dist/installed
	PYTHONPATH=dist/installed $(BIN)/python dist/installed/bin/separatrix list > dist/list.txt

docs: .venv/.dev
	$(BIN)/python docs/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: .venv/.dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv dist site separatrix-report
