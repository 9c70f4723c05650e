# Every target sets up what it needs. PYTHON chooses the interpreter (3.11 or newer), PORT the address of `make serve`.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := checkpoints/demo
READY := $(VENV)/.ready

.PHONY: setup serve test test-slow check lint imports types lock fix bench compare demo-model predictor

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

serve: setup
	$(VENV)/bin/foretoken serve $(DEMO) --served-model-name demo --port $(PORT) \
		--prefill-workers 1 --decode-workers 2

test: setup
	$(RUN) -m pytest -q -m "not slow and not gpu and not tpu"

test-slow: setup
	$(RUN) -m pytest -q -m "slow and not gpu and not tpu" --hypothesis-profile explore

check: lint imports types lock test

lint: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

imports: setup
	$(VENV)/bin/lint-imports

types: setup
	$(VENV)/bin/pyright --pythonpath $(RUN)

lock:
	! grep -nE '://|--(extra-)?index-url|--find-links|--trusted-host' requirements.lock

fix: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup
	$(RUN) -m benchmarks.run --out benchmarks/results/bench.json

# Resumable; FORETOKEN_TRACES names the folder of traces.
compare: setup
	$(RUN) -m benchmarks.compare
	$(RUN) -m benchmarks.compare_picture --out docs/compare.png
	$(RUN) -m benchmarks.compare_picture --cluster 16 --out docs/compare_16.png
	$(RUN) -m benchmarks.compare_picture --cluster 70b --out docs/compare_70b.png
	$(RUN) -m benchmarks.compare_tables --out docs/comparison.md

demo-model: setup
	$(RUN) -m train.lm --out $(DEMO)

predictor: setup
	$(RUN) -m predictor.collect $(DEMO) --out runs/records --sessions 7000 --samples 1 \
		--temperature 0.8 --temperature 1.0 --layer 2 --layer 3 --reach 32 --prompt-layer 4
	$(RUN) -m train.predictor --records runs/records --out $(DEMO)/length_head --width 48 --width 48 \
		--glance 8 --passes 45
	$(RUN) -m predictor.evaluate --records runs/records --head $(DEMO)/length_head \
		--out $(DEMO)/length_head/evaluation.json
