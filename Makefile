# Short on purpose: every recipe is one or two commands which also work by hand.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CARTLM := .venv/bin/python -m cartlm.cli
DVC := .venv/bin/python -m dvc
# Named after what asked for it: another lock, or the checkout moved, is another stamp.
STAMP := .venv/setup-$(shell (pwd; cat docker/dev.txt pyproject.toml) | cksum | tr ' ' -)

.PHONY: help setup repro test lint bench base preset image compare clean

help: ## this list
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(STAMP) ## the virtual environment and llama.cpp (done by the others as needed)
	@docker/llama_cpp.sh --quiet --venv .venv

$(STAMP):
	@docker/venv.sh "$(PYTHON)" .venv docker/dev.txt
	@rm -f .venv/setup-* && touch $@

repro: setup ## the whole chain: data, fine-tuning, quantizing, accuracy, speed; prints the results table
	@$(CARTLM) params check
	@if [ -n "$$($(DVC) remote list)" ]; then $(DVC) repro --pull; else $(DVC) repro; fi
	@$(CARTLM) check-models
	@$(CARTLM) table

test: setup ## all tests (the first call also builds the portable llama.cpp)
	@docker/llama_cpp.sh --quiet --portable --libraries
	@.venv/bin/python -m pytest -q $(ARGS)

lint: setup ## ruff and mypy
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy

bench: setup ## measure speed and memory again (CHECK=1: refuse another machine than the committed one)
	@CARTLM_BENCH_CHECK=$(CHECK) $(DVC) repro -f -s bench-cpu
	@$(DVC) repro -s summarize

base: setup ## make the embedded base model anew (hours on a CPU) and put it into base/model
	@$(DVC) repro base/dvc.yaml
	@$(CARTLM) accept-base

preset: setup ## rewrite params.yaml: make preset NAME=paper
	@$(CARTLM) preset $(or $(NAME),$(error name one: make preset NAME=offline, or NAME=paper))

image: ## (comes with issue 6) the images of the hardware targets
	@echo "make image comes with issue 6; until then run on the host: make repro" >&2; exit 2

compare: ## (comes with issue 3) what a change did, between two commits
	@echo "make compare comes with issue 3; until then: dvc metrics diff and dvc params diff" >&2; exit 2

clean: ## remove data, models, runs and tool caches; DVC's cache, base/build and .venv stay
	rm -rf data models runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
