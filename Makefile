# What people type. Every target does its own set-up; `make help` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without compiled modules every process compiles thousands of them, which takes more than half of its start.
unexport PYTHONDONTWRITEBYTECODE
# No usage reports from the tools we start.
export BENTOML_DO_NOT_TRACK := True
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true

# $(call step,what,command): says what it does, does it, says how long it took.
define step
	@echo "==> $(1)"; started=$$SECONDS; $(2) && echo "==> $(1): done in $$((SECONDS - started)) s"
endef

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/.dev ## Create .venv with the locked dependencies of training, serving and development

.PHONY: train
train: $(VENV)/.training ## Run the pipeline: raw CSV to models in MLflow and in the BentoML store
	@python -m training.promote --follow
	$(call step,Run the pipeline (dvc repro),dvc repro)

# $(call given,KEY): KEY=value as one word for the shell, whatever characters the value has.
given = '$(1)=$(subst ','\'',$(value $(1)))'

# NAME and TASK are found out; DROP leaves columns out; YES=1 changes a dataset that is there.
.PHONY: dataset
dataset: $(VENV)/.training ## Make a dataset of a table: CSV=path/to/table.csv TARGET=column [NAME=…] [TASK=…] [DROP=a,b]; then make train serve
	@python -m training.new_dataset $(foreach key,CSV TARGET NAME TASK DROP,$(call given,$(key))) $(if $(YES),--yes)

.PHONY: dataset-remove
dataset-remove: $(VENV)/.training ## Take a dataset out again: NAME=…
	@python -m training.new_dataset --remove $(call given,NAME)

# Which model and version: make promote MODEL=iris VERSION=8
.PHONY: promote
promote: $(VENV)/.training ## Deploy a registered version: MODEL=iris VERSION=8; running services reload it
	@python -m training.promote $(MODEL) $(VERSION)

.PHONY: rollback
rollback: $(VENV)/.training ## Deploy the version before: MODEL=housing; running services reload it
	@python -m training.promote $(MODEL) --rollback

.PHONY: lock-pipeline
lock-pipeline: $(VENV)/.training ## Run the pipeline from nothing, in a copy of the work tree, and bring back dvc.lock and metrics/ to commit
	$(call step,Run the pipeline from nothing,copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && git init --quiet "$$copy" \
		&& git ls-files -coz --exclude-standard | tar -c --null -T - | tar -x -C "$$copy" \
		&& (cd "$$copy" && env -u MLFLOW_TRACKING_URI BENTOML_HOME="$$copy/bentoml" dvc repro) \
		&& cp "$$copy/dvc.lock" . && cp -r "$$copy/metrics" .)

.PHONY: serve
serve: train ## Serve the models over HTTP (API_PORT, 8000) and gRPC (GRPC_PORT, 8001); runs the pipeline first where something changed
	@echo "==> Serve (bentoml serve); stop with Ctrl-C"
	@exec bentoml serve

# Tests wait for the services that they start: a third process keeps two cores busy. More are no faster.
PARALLEL := --numprocesses=3

# Both at once: mypy uses one core, and half a minute where it has no cache.
.PHONY: test
test: $(VENV)/.dev ## Lint and run the tests, side by side
	@$(MAKE) --no-print-directory --jobs=2 lint pytest

.PHONY: pytest
pytest: $(VENV)/.dev
	$(call step,Run the tests (pytest),pytest $(PARALLEL))

# A target of its own: it follows the code into every service that the tests start, which takes two thirds longer.
.PHONY: coverage
coverage: lint ## The same, and measure which code the tests run: 90 % at least
	$(call step,Run the tests with coverage (pytest --cov),pytest $(PARALLEL) --cov --cov-report=term --cov-report=html --cov-report=xml --cov-fail-under=90)

.PHONY: integration
integration: $(VENV)/.dev $(VENV)/.clients ## Run the tests of the whole: pipeline from nothing, commands of the documentation, pages, clients, monitoring (takes minutes)
	$(call step,Run the integration tests (pytest),pytest -m "integration and not weekly" $(PARALLEL) --dist=loadscope --no-loadscope-reorder)

.PHONY: weekly
weekly: $(VENV)/.dev ## Run the integration tests that CI runs once a week and for a tag: retraining, the demo, more tables, clones, memory, Ray (takes minutes)
	$(call step,Run the weekly tests (pytest -m weekly),pytest -m weekly $(PARALLEL) --dist=loadscope --no-loadscope-reorder)

.PHONY: chaos
chaos: $(VENV)/.dev ## Break things for real: disks, processes, connections, certificates, random requests (takes minutes)
	$(call step,Break things,CHAOS=1 pytest -m integration tests/resilience tests/integration/test_grpc_floods.py tests/integration/test_fuzz.py \
		tests/integration/test_tls.py tests/integration/test_reload.py tests/kinds/test_fuzz.py)

# Options for load and load-ui, as in: make load LOAD="--shape spike --run-time 30s"
LOAD ?=

.PHONY: boosters
boosters: $(VENV)/.boosters ## Add LightGBM and XGBoost to .venv, as estimators of params.yaml

.PHONY: ray
ray: $(VENV)/.ray ## Add Ray to .venv, for batch prediction on a cluster

.PHONY: demo
demo: train $(VENV)/.dev ## The loop in under five minutes, on a copy: traffic shifts, drift, retraining, takeover; stop with Ctrl-C
	@exec python -m load_tests.demo

.PHONY: load
load: train $(VENV)/.dev ## Put load on a service of its own, report, check the thresholds; options: LOAD="…"
	$(call step,Run the load test (Locust),python -m load_tests.run $(LOAD))

.PHONY: fuzz
fuzz: train $(VENV)/.dev ## Send 100,000 random requests to a service of its own (minutes; ARGS="--requests 2000 --seed 1")
	$(call step,Fuzz the service (python -m load_tests.fuzz),python -m load_tests.fuzz $(ARGS))

.PHONY: load-ui
load-ui: train $(VENV)/.dev ## Show Locust's page on port 8089, for a service of its own
	@exec python -m load_tests.run --ui $(LOAD)

.PHONY: benchmark
benchmark: $(VENV)/.dev train ## Measure the service beside its alternatives (15 minutes; ARGS=--quick: 2); needs wrk
	$(call step,Measure (python -m load_tests.benchmark),python -m load_tests.benchmark $(ARGS))

.PHONY: monitor
monitor: $(VENV)/.dev ## Watch the service in the terminal: from PROMETHEUS_URL, or straight from API_URL (http://localhost:8000)
	@python -m monitoring.terminal

.PHONY: dashboards
dashboards: $(VENV)/.dev ## Write what is generated of the monitoring: Grafana's dashboards, the rules of the error budgets, all rules for Kubernetes
	python -m monitoring.generate

.PHONY: pictures
pictures: $(VENV)/.dev ## Take the pictures in docs/img anew: the dashboards, the pages of the tutorial, the loop's story (takes minutes)
	PICTURES=docs/img pytest -m integration tests/integration/test_monitoring.py tests/integration/test_tutorial.py \
		tests/integration/test_story.py

.PHONY: docs
docs: $(VENV)/.dev ## Build the documentation as a site into site/; a warning or a broken link is an error
	zensical build --strict

# The port of the service is another's.
DOCS_ADDRESS ?= localhost:8080

.PHONY: docs-serve
docs-serve: $(VENV)/.dev ## Show the documentation on DOCS_ADDRESS (localhost:8080), and anew on each change; stop with Ctrl-C
	@exec zensical serve --dev-addr $(DOCS_ADDRESS)

.PHONY: docs-reference
docs-reference: $(VENV)/.dev ## Write the generated tables of README.md and docs/reference/ anew
	python -m docs_reference

# .pre-commit-config.yaml has the same commands; a test compares them.
.PHONY: lint
lint: $(VENV)/.dev ## Check style and types, shell scripts and the workflow
	$(call step,Check style (ruff),ruff check . && ruff format --check .)
	$(call step,Check types (mypy --strict),mypy)
	$(call step,Check shell scripts (shellcheck),shellcheck $$(git ls-files '*.sh' .ci/install .ci/run))
	$(call step,Check the workflow (actionlint and zizmor),actionlint -shellcheck .venv/bin/shellcheck && zizmor --quiet --offline --pedantic .github)

.PHONY: format
format: $(VENV)/.dev ## Format the code
	ruff check --fix .
	ruff format .

# The image: its name; the base to build on, if it is not that of deploy/Dockerfile.j2; more options for the build.
IMAGE ?= ml-prediction-bundle
BASE_IMAGE ?=
IMAGE_OPTIONS ?=

.PHONY: bento
bento: train ## Pack service and models into a Bento
	$(call step,Pack the Bento (bentoml build),bentoml build)

.PHONY: image
image: bento ## Build the image IMAGE (ml-prediction-bundle) with docker, podman or buildah; BASE_IMAGE, IMAGE_OPTIONS="--opt …"
	$(call step,Build the image (bentoml containerize),python -m deploy.image --image $(IMAGE) --base-image "$(BASE_IMAGE)" $(IMAGE_OPTIONS))

.PHONY: sbom
sbom: $(VENV)/.dev ## List what is in the image, as CycloneDX in reports/sbom.cdx.json
	$(call step,List what is in the image,python -m deploy.sbom $(IMAGE):latest)

.PHONY: audit
audit: $(VENV)/.dev ## Look the image's libraries up in PyPI's list of vulnerabilities; needs pypi.org
	$(call step,Look up known vulnerabilities (pip-audit),pip-audit --strict --disable-pip --require-hashes -r requirements/serving.txt)

.PHONY: retrain
retrain: train ## Retrain MODEL with what came true, and let the better model take over: docs/loop.md
	@exec python -m loop.retrain --model $(or $(MODEL),$(error Name the model: make retrain MODEL=housing))

.PHONY: loop
loop: $(VENV)/.training ## Run the worker of the loop: it retrains models when asked to; stop with Ctrl-C
	@exec python -m loop.worker

.PHONY: ui
ui: $(VENV)/.training ## Show runs and registered models: MLflow's page on port MLFLOW_PORT (5000)
	mlflow ui --backend-store-uri $${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db} --port $${MLFLOW_PORT:-5000}

.PHONY: lock
lock: $(VENV)/.uv ## Lock the dependencies that pyproject.toml declares, at their newest versions
	rm -f requirements/{boosters,clients,dev,mlflow-server,ray,training,serving}.txt
	$(call lock,dev,pyproject.toml --group dev)
	$(call lock,training,pyproject.toml --group training --constraint requirements/dev.txt)
	$(call lock,boosters,pyproject.toml --group boosters --constraint requirements/dev.txt)
	$(call lock,ray,pyproject.toml --group ray --constraint requirements/dev.txt)
	$(call lock,serving,pyproject.toml --constraint requirements/dev.txt)
	$(call lock,clients,--group clients)
	$(call lock,mlflow-server,--group mlflow-server --constraint requirements/dev.txt)
	for folder in load_tests/benchmark/peers/*/; do rm -f $$folder/requirements.txt; \
		$(compile) --output-file $$folder/requirements.txt $$folder/requirements.in || exit 1; done

compile = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

define lock
	$(compile) --output-file requirements/$(1).txt $(2)
endef

# What can be made again from data/raw and the code. MLflow's runs and what a person has promoted cannot.
.PHONY: clean
clean: ## Remove tables, reports and caches; the registry of MLflow and the deployed models stay
	rm -rf data/prepared data/features .dvc/tmp
	[ ! -d reports ] || find reports -mindepth 1 -not -name champions.json -delete
	rm -rf site .cache htmlcov .coverage coverage.xml .pytest_cache .mypy_cache .ruff_cache .hypothesis dvc_plots
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

.PHONY: clean-all
clean-all: ## The same, and MLflow's registry, all models and DVC's cache; asks first (not .venv, not the BentoML store)
	@read -r -p "Delete all runs and registered models (mlflow.db, mlruns/), models/ and DVC's cache? Type yes: " answer; \
		[ "$$answer" = yes ] || { echo "Nothing was deleted."; exit 1; }
	@$(MAKE) --no-print-directory clean
	rm -rf data/retraining* reports models mlruns mlflow.db mlflow.lock.db .dvc/cache

$(VENV)/.uv: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; name one with 'make PYTHON=/path/to/python3.11 …'."; exit 1; }
	$(call step,Create $(VENV),$(PYTHON) -m venv $(VENV))
	$(call step,Install the installer (uv),$(BIN)/python -m pip install --quiet --require-hashes -r requirements/bootstrap.txt)
	@touch $@

$(VENV)/.training: $(VENV)/.uv requirements/training.txt
	$(call step,Install the locked dependencies,uv pip install --python $(BIN)/python --require-hashes -r requirements/training.txt)
	@touch $@

$(VENV)/.boosters: $(VENV)/.training requirements/boosters.txt
	$(call step,Install the locked LightGBM and XGBoost,uv pip install --python $(BIN)/python --require-hashes -r requirements/boosters.txt)
	@touch $@

$(VENV)/.ray: $(VENV)/.training requirements/ray.txt
	$(call step,Install the locked Ray,uv pip install --python $(BIN)/python --require-hashes -r requirements/ray.txt)
	@touch $@

# Clients of other projects, in an environment of their own: they want an older protobuf than the service's.
$(VENV)/.clients: $(VENV)/.uv requirements/clients.txt
	$(call step,Create $(VENV)/clients,uv venv --quiet --clear --python $(BIN)/python $(VENV)/clients)
	$(call step,Install the locked clients,uv pip install --quiet --python $(VENV)/clients/bin/python --require-hashes -r requirements/clients.txt)
	@touch $@

$(VENV)/.dev: $(VENV)/.training requirements/dev.txt
	$(call step,Install the locked development tools,uv pip install --python $(BIN)/python --require-hashes -r requirements/dev.txt)
	@touch $@
