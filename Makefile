# Stockade. `make demo` and `make test` do all set-up themselves; the rest is for people who change it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENT := .venv-client
SHELL := /bin/bash
# Demo and tests start processes by the hundred: every module is compiled once, not in each of them.
unexport PYTHONDONTWRITEBYTECODE
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow coverage test-faults test-lab test-cluster test-compose test-dashboards check fix lock proto schema manifests dashboards docs bench bench-peers clean

help:  ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/stockade: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

$(CLIENT)/bin/python:
	$(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/pip install --quiet 'tritonclient[grpc]>=2.41' || { rm -rf $(CLIENT); exit 1; }

$(VENV)/.dev: $(BIN)/stockade
	$(BIN)/pip install --quiet --editable '.[demo,train,dev]'
	@touch $@

setup: $(VENV)/.dev $(CLIENT)/bin/python  ## virtual environments with everything for development

demo: $(BIN)/stockade $(CLIENT)/bin/python  ## the whole job, for real, in a minute
	$(BIN)/stockade demo

test: $(VENV)/.dev  ## all tests that bring nothing of their own, but for the slow
	scripts/test.sh -m 'not slow' $(PYTEST)

test-slow: $(VENV)/.dev  ## what takes more than ten seconds a test: recipes, benches, the lab, power cuts, mutants
	scripts/test.sh -m slow $(PYTEST)

coverage: $(VENV)/.dev  ## the same with coverage measured: 90 % at least
	COVERAGE=1 scripts/test.sh $(PYTEST)

test-faults: $(VENV)/.dev  ## all faults of the audit log, in full: hours. as root, with xfsprogs and btrfs-progs for their power cuts
	STOCKADE_FAULTS=full $(BIN)/python -m pytest tests/faults
	$(BIN)/python -m tests.faults.mutate

test-lab: $(VENV)/.dev  ## every experiment of the lab at its smallest: half an hour
	STOCKADE_TEST_LAB=1 $(BIN)/python -m pytest tests/e2e/test_lab.py

test-cluster: $(VENV)/.dev  ## beyond one gateway: Ray clusters, a real MLServer and Triton (`make bench-peers`), releases, balancers, pods
	$(BIN)/pip install --quiet --editable '.[ray]'
	STOCKADE_TEST_CLUSTER=1 $(BIN)/python -m pytest $(PYTEST) --timeout 1200 tests/cluster tests/contracts/test_engine.py

test-compose: $(VENV)/.dev $(CLIENT)/bin/python  ## docker-compose.yml on a real engine: up, predictions, kill -9 of each container
	tests/e2e/compose/run.sh

lock: $(VENV)/.dev  ## pin what is in the images, by hash
	$(BIN)/pip install --quiet uv
	cd ops/deploy/image && for from in requirements-build.in:requirements-build.txt \
	  "../../../pyproject.toml --extra objects --extra otel --extra redis:requirements.txt" \
	  "../../../pyproject.toml --extra objects --extra otel --extra redis --extra ray:requirements-ray.txt"; do \
	  ../../../$(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-header \
	    --upgrade --output-file "$${from##*:}" $${from%:*} || exit 1; done

test-dashboards: $(VENV)/.dev  ## every panel on a live Prometheus, against Grafana's schema, and drawn by its components
	$(BIN)/pip install --quiet playwright pillow
	$(BIN)/python -m tests.dashboards.drawing
	STOCKADE_TEST_DASHBOARDS=1 $(BIN)/python -m pytest $(PYTEST) --timeout 600 tests/dashboards

check: $(VENV)/.dev  ## style, types, layering, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/generate_proto.py --check
	$(BIN)/python -m gateway.tools.schema --check
	$(BIN)/python scripts/generate_dashboards.py --check
	$(BIN)/python scripts/generate_kubernetes.py --check
	$(BIN)/python scripts/house.py --check

fix: $(VENV)/.dev  ## format, and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(VENV)/.dev  ## generate the wire types from proto/
	$(BIN)/python scripts/generate_proto.py

schema: $(VENV)/.dev  ## generate docs/schema/ from the configuration models
	$(BIN)/python -m gateway.tools.schema

dashboards: $(VENV)/.dev  ## generate the Grafana dashboards
	$(BIN)/python scripts/generate_dashboards.py

manifests: $(VENV)/.dev  ## generate what the Kubernetes manifests take from configuration and alerts
	$(BIN)/python scripts/generate_kubernetes.py

docs: $(BIN)/mkdocs  ## the documentation as a site, in out/site; strict: a link that leads nowhere fails
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --site-dir out/site

$(BIN)/mkdocs: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@

bench-peers: $(BIN)/stockade  ## install the servers that `make bench` compares with (2 GB, in ~/.cache/stockade)
	$(BIN)/stockade bench peers --install

bench: $(BIN)/stockade  ## measure, beside the peers that are installed
	$(BIN)/stockade bench serve --report out/bench-serve.json

clean:  ## remove everything that was made here
	rm -rf $(VENV) $(CLIENT) out build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .coverage*
