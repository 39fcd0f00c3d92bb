# One vocabulary for people, hooks and CI. `make` alone lists the verbs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
BIN := .venv/bin
DIGIT ?= 8
IMAGES ?= console cpu
BUILD_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-thorough test-cluster check bench images compile clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The environment is made anew only when what it is made of has changed.
.venv/.ready: pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "git is needed: sample sets are versioned with it" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: .venv/.ready  ## make .venv from the pinned constraints

demo: .venv/.ready  ## forget a handwritten digit end to end (DIGIT=8)
	$(BIN)/expunge demo --digit $(DIGIT)

test: .venv/.ready  ## all tests but the thorough ones
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder -m 'not thorough and not cluster'

test-thorough: .venv/.ready  ## what takes minutes: thousands of odd requests, full disks, whole documents
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'thorough and not cluster'

test-cluster: .venv/.ready  ## build the images, carry the digits request through containers to a release; needs a Docker engine
	@SECONDS=0; $(MAKE) --no-print-directory images; built=$$SECONDS; \
	$(BIN)/python -m pytest -m cluster $$(grep --recursive --files-with-matches --include='*.py' mark.cluster tests); \
	echo "test-cluster: $$((SECONDS / 60)) min $$((SECONDS % 60)) s, of which the images took $$((built / 60)) min $$((built % 60)) s"

check: .venv/.ready  ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.ready  ## measure every number that the documents quote
	for question in forget_digits whole_run other_generators kills; do $(BIN)/python benchmarks/$$question.py; done

compile: .venv/.ready  ## write the plans as Kubeflow IR to build/ (IMAGE=registry/name@sha256:...)
	$(BIN)/expunge compile build --image $(IMAGE)

images: .venv/.ready  ## build the container images (IMAGES="cpu gpu", BUILD_ARGS=...)
	for image in $(IMAGES); do \
	  docker build --file docker/Dockerfile --target $$image --tag expunge-python:$$image \
	    $$($(BIN)/python -m pipelines.containers) \
	    --build-arg REVISION=$$(git describe --always --dirty --abbrev=40 --exclude '*' || echo unknown) $(BUILD_ARGS) .; \
	done

clean:  ## remove the environment and build leftovers, never a workspace
	rm -rf .venv build dist *.egg-info
