# mailtriage: `make demo` shows it, `make test` proves it. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BUILDER ?= docker
STAGES ?= serving training platform
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# For the images' labels; without the name and password that a remote's address may hold.
REVISION ?= $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
SOURCE ?= $(shell git config --get remote.origin.url 2>/dev/null | sed -nE 's,^(https?://)([^/@]*@)?,\1,p')
LABELS = $(foreach label,version=$(VERSION) revision=$(REVISION) source=$(SOURCE),$(if $(patsubst %=,,$(label)),--label org.opencontainers.image.$(label)))
ifneq (,$(findstring buildah,$(BUILDER)))
BUILD = bud
PUSH = $(BUILDER) push --digestfile $$digest
DIGEST = cat $$digest
else
BUILD = build
PUSH = $(BUILDER) push
DIGEST = $(BUILDER) image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' $$image:$(VERSION) | sed -n "s,^$$image@,,p"
endif
export UV_LINK_MODE ?= hardlink
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test lint test-cluster images images-push lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | column -t -s $$'\t'

demo: $(VENV)/.demo ## the whole line on this machine: train, approve, serve, sort a batch of mails (KEEP=1 leaves the servers up)
	@$(BIN)/python -m demo $(if $(KEEP),--keep)

test: $(VENV)/.test lint ## lint, types and the whole test suite
	@$(BIN)/python -m pytest --ignore tests/cluster

lint: $(VENV)/.test ## ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

test-cluster: $(VENV)/.test ## use the chart and the manifests on the cluster that KUBECONFIG names (LOADER=COMMAND loads an image into it)
	@BUILDER="$(BUILDER)" LOADER="$(LOADER)" $(BIN)/python -m pytest tests/cluster

images: ## build the container images (BUILDER=docker, buildah or a path; STAGES=serving builds one)
	@for stage in $(STAGES); do $(BUILDER) $(BUILD) --target $$stage $(LABELS) -t docker.io/mailtriage/$$stage:$(VERSION) .; done

images-push: ## tag the images and push them to your registry (REGISTRY=registry.example.com/mailtriage BUILDER=... STAGES=...)
	@test -n "$(REGISTRY)" || { echo "name the registry: make images-push REGISTRY=registry.example.com/mailtriage"; exit 1; }
	@digest=$$(mktemp); trap 'rm -f "$$digest"' EXIT; for stage in $(STAGES); do \
	  image=$(REGISTRY)/$$stage; \
	  $(BUILDER) tag docker.io/mailtriage/$$stage:$(VERSION) $$image:$(VERSION); \
	  $(PUSH) $$image:$(VERSION); \
	  echo "pushed $$image@$$($(DIGEST))"; \
	done

lock: $(VENV)/bin/uv ## resolve the dependencies again, after a change in pyproject.toml
	@requirements/lock

clean: ## remove everything that make made
	rm -rf $(VENV) build dist work *.egg-info

$(VENV)/bin/uv:
	@command -v $(PYTHON) >/dev/null || { echo "mailtriage needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is not there. Install it, or name one: make demo PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"mailtriage needs Python 3.11, 3.12 or 3.13; $(PYTHON) is {v[0]}.{v[1]}. Name another: make demo PYTHON=python3.12")'
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt

$(VENV)/.demo: $(VENV)/bin/uv requirements/serve.txt requirements/train.txt requirements/pipelines.txt requirements/gateway.txt
	@echo "installing what the demo needs ..."
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode --require-hashes -r requirements/serve.txt -r requirements/train.txt -r requirements/pipelines.txt -r requirements/gateway.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/bin/uv requirements/test.txt
	@echo "installing what the tests need ..."
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --compile-bytecode --require-hashes -r requirements/test.txt
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
