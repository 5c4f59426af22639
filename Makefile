# Two commands set everything up: `make demo` and `make test`. The environment in .venv is made once and reused.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
HF_TESTS := $(VENV)/transformers-tests
TRANSFORMERS := $(shell sed -n 's/^transformers==\(.*\)/\1/p' constraints.txt)

# Threads that wait without spinning: on a busy small machine spinning costs a factor of five.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test fuzz lint docs bench clean env

env: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt $(wildcard modeling_tgdt/kernels/csrc/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tgdt needs python3 >= 3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; a few minutes on a slow connection)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,faiss,heif,qdrant,plot,serve,demo,interop]'
	@touch $@

# transformers' own common suites ship only in its source distribution.
$(HF_TESTS)/.complete: constraints.txt $(STAMP)
	@echo "Fetching the common test suites of transformers $(TRANSFORMERS)"
	@rm -rf $(HF_TESTS) && mkdir -p $(HF_TESTS)
	@$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary transformers \
		--dest $(HF_TESTS) 'transformers==$(TRANSFORMERS)'
	@tar -xzf $(HF_TESTS)/*.tar.gz -C $(HF_TESTS) --strip-components=1 --wildcards '*/tests/*' && rm $(HF_TESTS)/*.tar.gz
	@touch $@

demo: $(STAMP)
	@$(BIN)/tgdt demo --output demo_output

test: $(HF_TESTS)/.complete
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -q -rs

# Some 10,000 forged galleries, models, pictures, records and recipes; `make test` takes some hundred of them.
fuzz: $(STAMP)
	@OMP_NUM_THREADS=1 FUZZ_EXAMPLES=450 $(BIN)/python -m pytest -n 2 -q --timeout 3600 tests/test_fuzzing.py \
		tests/modeling_tgdt/gallery/test_forged_edge.py tests/modeling_tgdt/runtimes/test_forged_graphs.py

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# The documentation as a site, build/site/index.html: the pages of docs/, the documents of the root, the API.
docs: $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material 'mkdocstrings[python]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "Documentation: build/site/index.html"

# Every measurement that needs no data, on a machine that does nothing else (about 40 minutes on two cores). Peers that
# are installed are measured too: pip install pylate late-interaction-kernels maxsim-cpu colpali-engine.
RESULTS := --out benchmarks/RESULTS.md
bench: $(STAMP)
	$(BIN)/python -m benchmarks.retrieval --queries 48 --rounds 3 $(RESULTS)
	$(BIN)/python -m benchmarks.scaling --limit-gib 4 --plot docs/scaling.png $(RESULTS)
	$(BIN)/python -m benchmarks.scaling --clusters 2000 --sizes 30000 100000 300000 1000000 --limit-gib 4 $(RESULTS)
	$(BIN)/python -m benchmarks.scaling --engine faiss --engine-option min_rows=1 --clusters 2000 \
		--sizes 30000 100000 300000 1000000 --limit-gib 4 $(RESULTS)
	$(BIN)/python -m benchmarks.encoding $(RESULTS)
	$(BIN)/python -m benchmarks.loss_memory $(RESULTS)
	$(BIN)/python -m benchmarks.train_step $(RESULTS)
	$(BIN)/python -m benchmarks.journeys $(RESULTS)

clean:
	rm -rf $(VENV) build *.egg-info demo_output
