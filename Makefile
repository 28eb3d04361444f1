# make demo   teacher -> student -> signed .edge -> stream -> volume, in demo-out/
# make test   style, types and tests
PYTHON ?= python3
OUT ?= demo-out
BIN := .venv/bin

.PHONY: demo test test-slow test-explore test-py test-gpu lint figures clean

.venv/.installed: pyproject.toml export/pyproject.toml runtime/pyproject.toml constraints.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed for the host tools, this is " + sys.version.split()[0] + "; run: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@touch $@

demo: .venv/.installed
	$(BIN)/edge-sdk demo --out $(OUT)

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -q

test-slow: .venv/.installed
	$(BIN)/python -m pytest -q -m slow

# the property tests on cases that no run has drawn before
test-explore: .venv/.installed
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest -q

# the runtime on every supported Python of this machine, and its dependencies resolved for aarch64
test-py: .venv/.installed
	$(BIN)/python tests/every_python.py

test-gpu: .venv/.installed
	$(BIN)/python -m pytest -q -m gpu

figures: .venv/.installed
	$(BIN)/python -m benchmarks.main_job --write
	$(BIN)/python -m benchmarks.distill --write
	$(BIN)/python -m benchmarks.lowering --write
	$(BIN)/python -m benchmarks.streaming --write
	$(BIN)/python -m benchmarks.compounding --write

clean:
	rm -rf demo-out dist build .pytest_cache .mypy_cache .ruff_cache
