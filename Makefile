# make setup | demo | test | test-slow | check | bench
# Everything lives in .venv and is installed from the hash-locked requirements.lock.
PYTHON ?= python3
UV = .venv/bin/uv
BIN = .venv/bin
PACKAGES = harness tasks judges trainers leaderboard

.PHONY: setup demo test test-slow check format lock bench clean

setup: .venv/.installed

.venv/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(UV) || $(BIN)/python -m pip install --quiet "uv>=0.9"
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q $(PACKAGES)
	touch $@

demo: setup
	$(BIN)/harness quickstart

# A file's tests share what they load, so each file stays on one worker.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Speed against peers (lmms-eval lives in an environment of its own), and of a training step against TRL's alone.
bench: setup benchmarks/.venv-lmms-eval
	$(BIN)/python -m benchmarks.generation $(if $(DATA),--data-dir $(DATA))
	$(BIN)/python -m benchmarks.training

benchmarks/.venv-lmms-eval: benchmarks/lmms-eval.lock
	$(UV) venv --quiet --clear $@
	$(UV) pip sync --quiet --python $@/bin/python --require-hashes $<
	touch $@

# Re-resolve the dependencies of pyproject.toml for Python 3.11-3.13; no index address is written.
lock:
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-header --quiet --output-file requirements.lock

clean:
	rm -rf .venv build dist *.egg-info
