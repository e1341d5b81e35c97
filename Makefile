# `make demo` and `make test` need only Python 3.11 or later, make and the package index.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST_ARGS ?= -n 2 --dist loadfile --durations=25

.PHONY: demo test test-slow lint format docs clean

.venv/core: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,optuna,tensorboard]'
	touch $@

# Meta-train the coordinatewise LSTM on real digits, then compare it with tuned optimizers. Each time in a fresh folder.
demo: .venv/core
	@n=1; while [ -e runs/demo-$$n ]; do n=$$((n + 1)); done; \
	$(BIN)/l2o train lstm_digits --out runs/demo-$$n/lstm_digits && \
	$(BIN)/l2o study digits --optimizer runs/demo-$$n/lstm_digits --optimizer lstm --out runs/demo-$$n/study

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

# What takes minutes and is for a release, compiled as users have it: whole studies, the shipped optimizers in the table of
# the protocol, samplers with the shipped weights, four workers of which one is killed.
test-slow: .venv/dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 JAX_DEBUG_KEY_REUSE=1 XLA_FLAGS= $(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

format: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/docs: .venv/core
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	touch $@

# The manual, as a site in site/; warnings are errors.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .jax_cache site
