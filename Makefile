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

.PHONY: help setup repro test lint bench architecture base remote preset pin image compare check-compare check-requests clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup: $(STAMP) ## the virtual environment and llama.cpp (done by the others as needed)
	@docker/llama_cpp.sh --quiet --venv .venv

$(STAMP):
	@docker/venv.sh "$(PYTHON)" .venv docker/dev.txt
	@rm -f .venv/setup-* && touch $@

repro: setup ## the whole chain: data, fine-tuning, quantizing, accuracy, speed; prints the results table
	@$(CARTLM) params check
	@$(CARTLM) fetch-paid
	@if [ -n "$$($(DVC) remote list)" ]; then $(DVC) repro --pull; else $(DVC) repro; fi
	@$(CARTLM) check-models
	@$(CARTLM) table

test: setup ## all tests (the first call also builds the portable llama.cpp)
	@docker/llama_cpp.sh --quiet --portable --libraries
	@.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## ruff and mypy
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy

bench: setup ## speed, memory, energy again (CHECK=1: on the committed machine only), and our own code's benchmarks
	@CARTLM_BENCH_CHECK=$(CHECK) $(DVC) repro -f -s bench-cpu
	@$(DVC) repro -s summarize
	@.venv/bin/python -m pytest -q tests/benchmarks --benchmark-enable --benchmark-autosave --benchmark-compare

architecture: setup ## speed, memory and energy of Llama 3.2 1B with random weights on this machine (gigabytes of disk)
	@$(CARTLM) params check
	@$(CARTLM) prune
	@CARTLM_BENCH_CHECK=$(CHECK) $(DVC) repro architecture/dvc.yaml
	@$(DVC) repro -f -s summarize

base: setup ## make the embedded base model anew (hours on a CPU) and put it into base/model
	@$(DVC) repro base/dvc.yaml
	@$(CARTLM) accept-base

remote: setup ## accuracy, latency and cost of the servers under remote: in params.yaml (GPT-4.1, vLLM, llama-server)
	@$(CARTLM) params check
	@$(CARTLM) check-remote
	@if [ -n "$$($(DVC) remote list)" ]; then $(DVC) repro --pull remote/dvc.yaml; else $(DVC) repro remote/dvc.yaml; fi
	@$(DVC) repro -f -s summarize

preset: setup ## rewrite params.yaml: make preset NAME=paper
	@$(CARTLM) preset $(or $(NAME),$(error name one: make preset NAME=offline, or NAME=paper))

pin: setup ## ask the hub which revisions params.yaml means, and write them into it
	@$(CARTLM) pin

image: ## (comes with issue 6) the images of the hardware targets
	@echo "make image comes with issue 6; until then run on the host: make repro" >&2; exit 2

compare: setup ## what changed since this branch left main (or REV=...), to the workspace (or WITH=...)
	@$(CARTLM) compare $(or $(REV),$(shell git merge-base HEAD main 2>/dev/null || git merge-base HEAD origin/main 2>/dev/null),$(error there is no main here; name a commit: make compare REV=HEAD~1)) $(WITH) $(ARGS)

.PHONY: stale
stale: setup ## which committed numbers are older than code and params, from what git has alone (ARGS=--json)
	@$(CARTLM) stale $(ARGS)

.PHONY: pull push
pull: setup ## models and data that another machine made, from the DVC remote
	@$(CARTLM) pull

push: setup ## models, data and paid answers to the DVC remote
	@$(CARTLM) push

check-compare: setup ## prove it: N=20 measurements of one commit are no change; a planted loss and slow-down are
	@.venv/bin/python -m tests.benchmarks.check_compare --times $(or $(N),20)

check-requests: setup ## prove it: 16 requests in flight against a server that takes 200 ms are at least 60 a second
	@.venv/bin/python -m tests.benchmarks.check_requests

clean: ## remove data, models, runs and tool caches; paid answers, DVC's cache, base/build and .venv stay
	[ ! -d data ] || find data -mindepth 1 -maxdepth 1 ! -name answers ! -name responses.jsonl -exec rm -rf {} +
	rm -rf models runs build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
