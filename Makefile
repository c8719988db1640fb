# Everything a contributor runs. Needs Python 3.11 to 3.13 and make; the rest comes from the package index.

PYTHON ?= python3
NEWEST := .venv
OLDEST := .venv-2.11.2
# The versions of Airflow beside 3.3.2, the one of `make test`, each with the Python that its lane runs on.
LANES := 2.11.2 3.0.6 3.1.8 3.2.2 3.4.0b2
PIN_SETS := 2.11.2-protobuf-4 2.11.2 3.0.6 3.1.8 3.2.2 3.3.2
PYTHON_2.11.2 := 3.11
PYTHON_2.11.2-protobuf-4 := 3.11
PYTHON_3.0.6 := 3.12
PYTHON_3.1.8 := 3.13
PYTHON_3.2.2 := 3.12
PYTHON_3.3.2 := 3.11
PYTHON_3.4.0b2 := 3.13
# A clear is another thing there than on the version of `make test-airflow`.
LIFE_CYCLE_3.4.0b2 := tests/airflow/test_life_cycle.py
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
# $(call python,<pin set>): that Python from the path or from pyenv, or another one that is here: below Airflow 3.1 up to 3.12.
python = $(shell for p in python$(PYTHON_$(1)) $(wildcard $(PYENV)/$(PYTHON_$(1)).*/bin/python3) "$(PYTHON)" python3.12 python3.11; \
	do "$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, $(if $(filter 2.% 3.0.%,$(1)),12,13)))' \
	2>/dev/null && echo "$$p" && break; done)
CHROMIUM := /usr/bin/chromium
# In an argument of `call`, a bare one would end it.
comma := ,
# The policy of a wait: no line and no branch of it goes untested.
CORE := */_core/*,*/exceptions.py
# A module at a time, as its tests share what it has run for all of them; four at once, as they mostly wait; in their order,
# in which the longest begins first.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

# An Airflow of the caller's, or modules on its path, must not leak into ours. `user = true` in a pip.conf breaks venvs.
# Without bytecode on disk each of the many processes that import Airflow would compile it anew.
unexport PYTHONPATH PYTHONHOME PYTHONWARNINGS PYTHONDONTWRITEBYTECODE VIRTUAL_ENV
export PIP_USER := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
$(foreach v,$(filter AIRFLOW_%,$(.VARIABLES)),$(eval unexport $(v)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PRECIOUS: .venv-%/.stamp
.PHONY: help demo up test test-airflow test-lanes test-protobuf-4 test-oldest test-constraints test-browser test-ha test-all bench hostile lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

demo: $(NEWEST)/.stamp ## a real Airflow and a simulated service: one wait, shown poll by poll; ends by itself
	@exec $(NEWEST)/bin/python -m scripts.demo

up: $(NEWEST)/.stamp ## the same, then keeps Airflow's UI running until Ctrl-C
	@exec $(NEWEST)/bin/python -m scripts.demo --up

test: lint ## lint, types, all in-process tests with coverage, one wait in a real Airflow; at most five minutes
	$(NEWEST)/bin/python -m pytest -m 'not airflow or smoke' $(SIDE_BY_SIDE) --cov --cov-report=
	$(NEWEST)/bin/python -m coverage report
	$(NEWEST)/bin/python -m coverage report --include='$(CORE)' --fail-under=100

test-airflow: $(NEWEST)/.stamp ## the other tests that need a real Airflow: one for all of them
	$(NEWEST)/bin/python -m pytest -m 'airflow and not smoke'

test-lanes: $(LANES:%=test-lane-%) test-protobuf-4 ## other versions of Airflow, 2.11 to 3.4: in-process tests, and all example DAGs over a kill

test-lane-%: .venv-%/.stamp
	.venv-$*/bin/python -m pytest -m 'not airflow' $(SIDE_BY_SIDE) tests/airflow tests/grpc
	.venv-$*/bin/python -m pytest tests/airflow/test_examples.py $(LIFE_CYCLE_$*)

test-protobuf-4: .venv-2.11.2-protobuf-4/.stamp ## the tests of calls and messages with protobuf 4
	.venv-2.11.2-protobuf-4/bin/python -m pytest $(SIDE_BY_SIDE) tests/grpc

test-oldest: $(OLDEST)/.stamp ## the tests of make test-airflow under Airflow 2.11, the oldest that we support
	$(OLDEST)/bin/python -m pytest -m airflow

test-constraints: $(NEWEST)/.stamp ## under the pins of six Airflows: does the wheel install, does nothing move, does one wait defer?
	$(NEWEST)/bin/python -m scripts.constraints $(foreach each,$(PIN_SETS),$(each)=$(call python,$(each)))

test-browser: $(NEWEST)/.stamp-browser $(CHROMIUM) ## the connection form of the newest Airflow, in Debian's Chromium
	LRO_BROWSER_TESTS=1 $(NEWEST)/bin/python -m pytest tests/browser

test-ha: $(NEWEST)/.stamp ## two triggerers of the newest Airflow on PostgreSQL, killed while 100 tasks wait
	LRO_HA_TESTS=1 $(NEWEST)/bin/python -m pytest tests/ha

test-all: test test-airflow test-lanes test-oldest test-constraints test-ha test-browser ## everything above that tests

bench: $(NEWEST)/.stamp-bench ## every benchmark, with tables and plots in docs/bench; about three quarters of an hour
	for each in import_cost token_cost detection poll_cost memory many herd one_wait triggerer; do \
	$(NEWEST)/bin/python benchmarks/$$each.py || exit; done

hostile: $(NEWEST)/.stamp ## what hostile servers do to a triggerer, measured, with a table in docs/hostile.md; half an hour
	@exec $(NEWEST)/bin/python -m tests.hostile.measure --write

lint: $(NEWEST)/.stamp ## ruff and mypy
	$(NEWEST)/bin/python -m ruff check
	$(NEWEST)/bin/python -m ruff format --check
	$(NEWEST)/bin/python -m mypy

clean: ## remove the environments and everything made by tools
	rm -rf $(NEWEST) .venv-* build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,<interpreter>,<environment>,<constraints>,<extras>): a new environment, with what the tests need.
define install
	"$(1)" -m venv --clear $(2)
	$(2)/bin/python -m pip install --quiet --constraint $(3) uv
	$(call add,$(2),$(3),$(4))
	@touch $(2)/.stamp
endef

# $(call add,<environment>,<constraints>,<extras>): uv, because it is several times quicker; pip, when uv cannot reach what
# the caller's own pip settings (an index, a proxy, a certificate) can.
define add
	@index="$$($(1)/bin/python -m pip config get global.index-url 2>/dev/null || true)"; \
	if [ -n "$$index" ] && [ -z "$${UV_DEFAULT_INDEX:-}" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	echo "installing into $(1)"; \
	$(1)/bin/python -m uv pip install --quiet --python $(1)/bin/python --constraint $(2) --editable '.[$(3)]' \
	|| { echo "uv could not; installing with pip" >&2; \
	     $(1)/bin/python -m pip install --quiet --constraint $(2) --editable '.[$(3)]'; }
endef

$(NEWEST)/.stamp: pyproject.toml constraints/airflow-3.3.2.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	echo "Python 3.11, 3.12 or 3.13 is needed, and PYTHON=$(PYTHON) is $$("$(PYTHON)" --version 2>&1). Try: make PYTHON=python3.12 …" >&2; \
	exit 1; }
	$(call install,$(PYTHON),$(NEWEST),constraints/airflow-3.3.2.txt,dev$(comma)cookbook$(comma)postgres$(comma)traced)

.venv-%/.stamp: pyproject.toml constraints/airflow-%.txt
	@[ -n "$(call python,$*)" ] || { \
	echo "Airflow $* needs Python 3.11 or newer, below 3.1 up to 3.12; none was found. Try: make PYTHON=/path/to/python3.12 …" >&2; \
	exit 1; }
	$(call install,$(call python,$*),.venv-$*,constraints/airflow-$*.txt,dev$(comma)postgres)

$(NEWEST)/.stamp-browser: $(NEWEST)/.stamp
	$(call add,$(NEWEST),constraints/airflow-3.3.2.txt,browser)
	@touch $@

$(NEWEST)/.stamp-bench: $(NEWEST)/.stamp
	$(call add,$(NEWEST),constraints/airflow-3.3.2.txt,bench)
	@touch $@

$(CHROMIUM):
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then echo "installing Debian's Chromium"; \
	apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends chromium >/dev/null; \
	else echo "$@ is missing. On Debian: apt-get install chromium" >&2; exit 1; fi
