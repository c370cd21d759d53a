# Everything one does with a checkout. `make` lists it; `make demo` and `make test` set up what they need.

PYTHON ?= python3
# Extra arguments for pytest or the benchmarks: make test ARGS="-k delay"
ARGS ?=
# How long the demo runs, until Ctrl-C unless set: make demo FOR=20s
FOR ?=

bin := .venv/bin
ready := .venv/.installed
pytest := $(bin)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test unit contract e2e fault chaos check lint format bench bench-registry bench-signals bench-dns lock definitions proto clean need-node need-dig need-servers

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*##  *\(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do printf '  make %-14s %s\n' "$$name" "$$what"; done

# --- run ------------------------------------------------------------------------------------------------------------------

demo: $(ready) need-node  ## a small shop on the embedded broker, with calls to watch; Ctrl-C ends it, FOR=20s does too
	@exec $(bin)/meshq dev examples/shop/mesh.yaml $(if $(FOR),--for $(FOR))

chaos: $(ready) need-servers  ## random faults under load for SECONDS=600, drawn from SEED=...
	@CHAOS_SECONDS=$(or $(SECONDS),600) CHAOS_SEED=$(SEED) $(pytest) -s tests/fault/test_chaos.py $(ARGS)

bench: $(ready)  ## the benchmarks (beside its peers where ../shared/bench is)
	@$(bin)/python -m tests.bench $(if $(wildcard ../shared/bench),--peers ../shared/bench) $(ARGS)

bench-registry: $(ready)  ## 5,000 simulated sidecars on one Redis: its CPU, renewals, how soon all see a change, memory
	@$(bin)/python -m tests.bench.registry $(ARGS)

bench-signals: $(ready)  ## one look of `meshq signals` at 1,000 topics, and where its time goes with ARGS=--profile
	@$(bin)/python -m tests.bench.signals $(ARGS)

bench-dns: $(ready)  ## mesh DNS beside a bare UDP echo
	@$(bin)/python -m tests.bench.dns $(ARGS)

# --- test -----------------------------------------------------------------------------------------------------------------

test: $(ready) need-servers need-node need-dig  ## every test; finds or brings RabbitMQ and Redis
	@$(bin)/python -m tests --durations=15 --durations-min=0.5 $(ARGS)

unit: $(ready) need-node  ## only what needs no servers
	@$(pytest) -m "not rabbitmq and not redis and not docker" tests/unit tests/property tests/typing $(ARGS)

contract e2e fault: $(ready) need-servers need-node need-dig  # one folder of tests
	@MESHQ_TEST_LONG=1 $(pytest) tests/$@ $(ARGS)

contract:  ## only the suites that run over every adapter
e2e:  ## only whole programs together
fault:  ## only with servers that break

check: $(ready)  ## lint, format, types, layers
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(pytest) -q tests/unit/test_layering.py

lint: $(ready)  ## ruff, and repair what it can
	@$(bin)/ruff check --fix .

format: $(ready)  ## ruff format
	@$(bin)/ruff format .

# --- keep -----------------------------------------------------------------------------------------------------------------

# Universal: one lock for every platform and Python from 3.11 on. Hashes, and no address of an index: pip asks its own.
compile = UV_CUSTOM_COMPILE_COMMAND="make lock" $(bin)/uv pip compile --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links

lock: $(ready)  ## renew what is installed: requirements.lock, sidecar/*.lock
	@$(compile) --upgrade --extra all --group dev pyproject.toml -o requirements.lock
	@$(compile) --constraint requirements.lock --extra sidecar pyproject.toml -o sidecar/requirements.lock
	@printf 'hatchling\n' | $(compile) --constraint requirements.lock - -o sidecar/build.lock

definitions: $(ready)  ## broker-config/definitions.json from meshq/core/topology.py
	@$(bin)/python -m tests.servers.definitions

proto: $(ready)  ## meshq/adapters/keda_proto/*_pb2.py from the contract beside them
	@$(bin)/python -m grpc_tools.protoc -I meshq/adapters/keda_proto --python_out=meshq/adapters/keda_proto \
		--pyi_out=meshq/adapters/keda_proto externalscaler.proto

clean:  ## remove what these targets made
	rm -rf .venv .meshq .hypothesis .pytest_cache .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- set-up ---------------------------------------------------------------------------------------------------------------

# $(call debian-package,PACKAGE,WHAT NEEDS IT): as root on Debian install it, and say so; else say what to do.
define debian-package
if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	echo "make: $(2), so the Debian package $(1) is being installed"; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; \
else \
	echo "make: $(2): please install it (on Debian: apt-get install $(1)), then run make again" >&2; exit 1; \
fi
endef

# What the lock names. Made anew, so that it holds nothing else.
.venv/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: meshq needs Python 3.11 or later; name one: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call debian-package,python3-venv,Python lacks its module venv); }
	@echo "make: installing into .venv (about half a minute)"
	@$(PYTHON) -m venv --clear .venv
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

# This project itself; the build backend is in the lock, so nothing is fetched here.
$(ready): .venv/.locked pyproject.toml
	@$(bin)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

need-node:
	@command -v node >/dev/null || { $(call debian-package,nodejs,one of the shop's apps is written for Node); }

need-dig:
	@command -v dig >/dev/null || { $(call debian-package,bind9-dnsutils,mesh DNS is tested by asking dig); }

need-servers: $(ready)
	@$(bin)/python -m tests.servers
