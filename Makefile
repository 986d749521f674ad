# Every target sets up what it needs in .venv: Python 3.11+ and make are enough to begin with.
# A second call finds it there; a change of pyproject.toml or constraints.txt brings it up to date.

PYTHON   ?= python3
BACKENDS ?= torch jax tensorflow
WORKERS  ?= 2
# Whatever tests draw hangs on this number.
SEED     ?= 20260101
# Where coverage is measured, which makes tests a quarter slower: by default in `make test-all` only.
COVERED  ?=
# Further arguments of `finegrain demo` (make demo), of pytest (make test), such as ARGS="-k crf", or
# of every benchmark (make bench).
ARGS     ?=

VENV := .venv
BIN  := $(VENV)/bin
LOGS := build/test

# The backend that stands for all where a test is to run on one of them: the quickest, if it is run.
one_backend := $(or $(filter torch,$(BACKENDS)),$(firstword $(BACKENDS)))

# The backend of the demo is JAX unless the caller chose one.
demo_backend := $(or $(KERAS_BACKEND),jax)

# What each environment stamp stands for: extras of pyproject.toml.
extras_demo-$(demo_backend) := $(demo_backend),cli,plots
extras_test  := jax,torch,tensorflow,cli,plots,tensorboard,export,examples,test
extras_bench := jax,torch,tensorflow,plots,export,bench
extras_docs  := docs
extras_lint  := dev
# pyright reads the backends' own types, so that all of them must be there, always.
extras_types := jax,torch,tensorflow,cli,plots,tensorboard,dev
extras_versions := versions

# Where constraints.txt has to hold, and on what: neither TensorFlow nor what KerasHub needs of it
# has a release for Python 3.14.
PYTHONS := 3.11.0 3.11.5 3.12.0 3.13.0 3.14.0
resolved := jax torch cli plots tensorboard examples test bench bench-segment docs dev versions
resolved_before_3.14 := tensorflow export bert pretrained

stamp = $(VENV)/.installed-$(1)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two installations into one environment at a time would disturb each other.
.NOTPARALLEL:
.PHONY: help demo test test-real test-all bench check lint types docs format versions clean

help:
	@echo "make demo    train the three taggers of the demo side by side and show what came out"
	@echo "make test    run the tests on each backend: BACKENDS=\"$(BACKENDS)\" WORKERS=$(WORKERS) SEED=$(SEED)"
	@echo "make test-real  what a user does, at full size; make test-all: every test on every backend"
	@echo "make bench   run the benchmarks and print their tables; ARGS=--quick to try, --show for those kept"
	@echo "make check   lint, format, types and documentation: everything but the tests"
	@echo "make lint    the lint and format part of it; make types: the types"
	@echo "make format  let ruff put the code in order"
	@echo "make docs    build the documentation into site/"
	@echo "make versions  ask a resolver whether constraints.txt holds on $(firstword $(PYTHONS)) to $(lastword $(PYTHONS))"
	@echo "make clean   remove the environment and everything that was built"

# A second demo takes the place of the first; in a folder of yours, ask for it by --force.
demo: $(call stamp,demo-$(demo_backend))
	KERAS_BACKEND=$(demo_backend) TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/finegrain demo $(or $(ARGS),--force)

# What backends other than `one_backend` leave out, and how large the tier `real` is.
test: others = not one_backend and not full
test: export FINEGRAIN_REAL ?= small
# Compiling takes longer than what is compiled: with little optimization and the plainest code XLA
# needs less than half as long. Processes that tests start do as they do: what two of them compute
# is compared. `make test-all` and `make test-real` compile as usual.
test: export XLA_FLAGS ?= --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
test: export JAX_DISABLE_MOST_OPTIMIZATIONS = 1
test-all: others = not one_backend
test-all: export FINEGRAIN_XLA = 1
test-all: export FINEGRAIN_REAL ?= full
test-all: COVERED = torch
test-real: tests = tests/real
test-real: export FINEGRAIN_REAL ?= full

test test-real test-all: export FINEGRAIN_SEED = $(SEED)
# The workers share the cores: libraries that would each take all of them get one thread.
test test-real test-all: export TF_CPP_MIN_LOG_LEVEL = 2
test test-real test-all: export OMP_NUM_THREADS = 1
test test-real test-all: export OPENBLAS_NUM_THREADS = 1
test test-real test-all: export MKL_NUM_THREADS = 1
test test-real test-all: export TF_NUM_INTRAOP_THREADS = 1
test test-real test-all: export TF_NUM_INTEROP_THREADS = 1
# The workers compile much that is alike, and a second run compiles next to nothing.
test test-real test-all: export JAX_COMPILATION_CACHE_DIR = $(CURDIR)/build/jax-cache
test test-real test-all: export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS = 0
test test-real test-all: export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES = -1
# Python keeps its bytecode, also where the environment says otherwise: else each worker compiles the
# tests and the package anew.
test test-real test-all: export PYTHONDONTWRITEBYTECODE =
# Not the settings that somebody keeps in ~/.keras.
test test-real test-all: export KERAS_HOME = $(CURDIR)/$(LOGS)/keras
test test-real test-all: $(call stamp,test)
	@rm -rf $(LOGS); mkdir -p $(LOGS); \
	for backend in $(BACKENDS); do \
	    echo "== tests on $$backend"; \
	    case $$backend in $(one_backend)) marks=;; *) marks="$(others)";; esac; \
	    case " $(COVERED) " in *" $$backend "*) coverage="--cov --cov-report=";; *) coverage=;; esac; \
	    { KERAS_BACKEND=$$backend COVERAGE_FILE=$(LOGS)/.coverage.$$backend $(BIN)/python -m pytest \
	          -n $(WORKERS) --color=no -m "$$marks" \
	          --junitxml=$(LOGS)/$$backend.xml $$coverage $(tests) $(ARGS) 2>&1; \
	      echo $$? > $(LOGS)/$$backend.status; } | tee $(LOGS)/$$backend.log; \
	done; \
	if ls $(LOGS)/.coverage.* > /dev/null 2>&1; then \
	    echo "== coverage on: $(COVERED)"; \
	    COVERAGE_FILE=$(LOGS)/.coverage $(BIN)/python -m coverage combine -q $(LOGS)/.coverage.* && \
	        COVERAGE_FILE=$(LOGS)/.coverage $(BIN)/python -m coverage report; \
	fi; \
	failed=0; \
	echo "== summary"; \
	for backend in $(BACKENDS); do \
	    status=$$(cat $(LOGS)/$$backend.status 2>/dev/null); \
	    closing=$$(sed -n 's/^=* *\([0-9].* in [0-9.]*s\).*$$/\1/p' $(LOGS)/$$backend.log | tail -n 1); \
	    echo "$$backend: $${closing:-no result, see $(LOGS)/$$backend.log}"; \
	    [ "$$status" = 0 ] || failed=1; \
	done; \
	exit $$failed

bench:
	@set -- $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)); \
	if [ $$# -eq 0 ]; then echo "There is no benchmark yet: benchmarks/ has no script."; exit 0; fi; \
	$(MAKE) --no-print-directory $(call stamp,bench) && \
	for script in "$$@"; do \
	    echo "== $$script"; TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python $$script $(ARGS) || exit 1; \
	done

check: lint types docs

lint: $(call stamp,lint)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(call stamp,types)
	$(BIN)/python -m pyright

# With --quiet, --strict would see no warnings.
docs: $(call stamp,docs)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

format: $(call stamp,lint)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Wheels alone: what has none for a Python would need a compiler there.
versions: $(call stamp,versions)
	@mkdir -p build; sed '/^#/d; s/ *;.*//' constraints.txt > build/pins.txt; \
	for python in $(PYTHONS); do \
	    case $$python in 3.14.*) extras="$(resolved)";; *) extras="$(resolved) $(resolved_before_3.14)";; esac; \
	    $(BIN)/uv pip compile pyproject.toml $$(printf -- '--extra %s ' $$extras) -c constraints.txt \
	        --python-version $$python --python-platform x86_64-manylinux_2_28 --no-build \
	        --no-python-downloads --quiet --no-header --no-annotate > build/resolved.txt || exit 1; \
	    loose=$$(sed 's/ *;.*//' build/resolved.txt | grep -vixFf build/pins.txt \
	        | grep -vE '^(nvidia|cuda|triton)'); \
	    [ -z "$$loose" ] || { echo "constraints.txt lacks, on Python $$python:"; echo "$$loose"; exit 1; }; \
	    echo "constraints.txt holds on Python $$python: $$extras"; \
	done

clean:
	rm -rf $(VENV) build dist site .coverage .coverage.* .hypothesis .pytest_cache .ruff_cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is made last, so that an installation cut short begins again with the next call.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not: say make PYTHON=/path/to/python3" >&2; \
	    exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "'$(PYTHON)' lacks venv or ensurepip: install its venv package (python3-venv on Debian)" >&2; \
	    exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/.created
	@case ',$(extras_$*),' in *,tensorflow,*) \
	    $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || { \
	        echo "This needs TensorFlow, which has no release for Python 3.14 yet: make clean, then" \
	            "make it with an older one, such as PYTHON=python3.13" >&2; exit 1; };; esac
	@echo "Setting up $(VENV) with $(extras_$*) (minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    -c constraints.txt -e '.[$(extras_$*)]'
	@touch $@
