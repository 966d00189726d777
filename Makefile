# Everything runs in .venv, which is made from requirements.lock where it is missing or older than that.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: setup quickstart smoke result test test-slow test-gpu lint types contracts check lock clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "caml needs Python 3.11 or newer; name one with PYTHON=python3.12"; exit 2; }
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --clear --python $(PYTHON) .venv && \
	  uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(PYTHON) -m venv --clear .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

quickstart: setup  ## the main job: lock the claims, train, fine-tune, measure, report
	@$(BIN)/caml lock experiments/quickstart/quickstart.gin || [ $$? -eq 2 ]  # 2: there are results already, and the run says so
	$(BIN)/caml run experiments/quickstart/quickstart.gin

smoke: setup  ## the same path end to end, small
	$(BIN)/caml run experiments/smoke/smoke.gin

result: setup  ## the quickstart's result in short, from its tables into its folder
	$(BIN)/caml report experiments/quickstart/quickstart.gin --keep experiments/quickstart

# Each process takes tests that lie together, so that what they share is made once.
test: setup  ## the fast tests
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-slow: setup  ## the tests that train, kill and resume
	$(BIN)/pytest -n 0 -m slow

# On the machine's GPU, by a Python whose jax has one: PYTHON=... names it. XLA's search for settings is left out.
test-gpu:  ## the tests of kernels and of the training loop, on a GPU
	PYTHONPATH="$(CURDIR):$$PYTHONPATH" JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_PREALLOCATE=false \
	  XLA_FLAGS="$$XLA_FLAGS --xla_gpu_autotune_level=0" \
	  $(PYTHON) -m pytest -n 12 -m "not slow" -k "not tpu" \
	  tests/models/test_attention.py tests/models/test_fused.py tests/training

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

contracts: setup
	$(BIN)/lint-imports

check: lint types contracts test  ## what CI runs

lock:  ## resolve requirements.lock anew, without addresses
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	  --upgrade --extra dev --extra evals pyproject.toml -o requirements.lock --quiet

bench-%: setup  ## a benchmark of benchmarks/, such as bench-reading: a line of JSON for each case
	$(BIN)/python -m benchmarks.$* $(BENCH)

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache
