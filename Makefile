# Every target makes .venv first if there is none.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help demo test law4 architectures lint docs mutants pocket card study selection bench bench-cpu bench-gpu harness-lmms-eval clean
help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP) ## answer a question about a picture, stage by stage, with stage-level beam search
	$(BIN)/python -m structdecode.cli.demo

test: $(STAMP) ## the whole test suite, a process a core (at most four)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

law4: $(STAMP) ## 200 questions with every strategy and verifier, in any company (about 90 minutes on 2 cores)
	STRUCTDECODE_LAW4_QUESTIONS=200 $(BIN)/python -m pytest tests/core/test_determinism.py

architectures: $(STAMP) ## every family of image-text models against its own generate: docs/architectures.md (3 to 15 minutes on 2 cores)
	$(BIN)/python -m tests.families

lint: $(STAMP) ## ruff and mypy --strict
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

mutants: $(STAMP) ## which small faults of the kernel its tests notice, by mutmut (hours on 2 cores; resumes)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install -q -c constraints.txt -e '.[mutants]'
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/mutmut run --max-children 2 && $(BIN)/mutmut results

docs: $(STAMP) ## the site, into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q

pocket: $(STAMP) ## train the embedded model again from nothing (about 40 minutes on 2 cores)
	$(BIN)/structdecode train --recipe pocket --out runs/pocket

card: $(STAMP) ## measure the embedded model: model card and the table in docs/results.md
	$(BIN)/python benchmarks/accuracy.py

study: $(STAMP) ## strategies and verifiers at equal cost on 500 questions: docs/pocket-study and the tables in README.md and docs/results.md (about 2 hours)
	$(BIN)/python -m benchmarks.study

selection: $(STAMP) ## every selector and verifier over one recording of 500 questions: docs/selection-study (about half an hour)
	$(BIN)/python -m benchmarks.selection

bench: $(STAMP) ## time the strategies, and stage beam against re-prefilling and against generate
	mkdir -p benchmarks/results && $(BIN)/python -m pytest benchmarks/bench_strategies.py -s --benchmark-json benchmarks/results/strategies.json

bench-cpu: $(STAMP) ## speed beside upstream's algorithm and generate, on the CPU (about 20 minutes)
	$(BIN)/python -m benchmarks.speed --device cpu && $(BIN)/python -m benchmarks.speed_report cpu

bench-gpu: $(STAMP) ## the same on a CUDA device, with a random model of LLaVA-o1's shape
	$(BIN)/python -m benchmarks.speed --device cuda && $(BIN)/python -m benchmarks.speed_report gpu

harness-lmms-eval: ## run lmms-eval itself on pocket pictures, in an environment of its own (a few minutes, gigabytes)
	test -x $(VENV)-lmms-eval/bin/python || $(PYTHON) -m venv $(VENV)-lmms-eval
	$(VENV)-lmms-eval/bin/python -m pip install -q -c constraints.txt -e '.[eval,vision,lmms-eval]'
	$(VENV)-lmms-eval/bin/python -m benchmarks.harness.run_lmms_eval

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
