# Short on purpose: every recipe is one or two commands which also work by hand.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
PYTHON ?= python3
# An image of ours has its environment ready; a checkout has its own, which is not for images.
export PATH := $(if $(CARTLM_IMAGE),,$(CURDIR)/.venv/bin:)$(PATH)
PY := $(if $(CARTLM_IMAGE),python,.venv/bin/python)
CARTLM := $(PY) -m cartlm.cli
DVC := $(PY) -m dvc
PYTEST := $(PY) -m pytest -q -n auto --dist loadfile --no-loadscope-reorder
# TARGET=cpu, TARGET=gpu: in that target's image instead of on this machine.
IN := docker/compose.sh run
export CARTLM_BENCH_CHECK ?= $(CHECK)
# Named after what asked for it: another lock, or the checkout moved, is another stamp.
STAMP := .venv/setup-$(shell (pwd; cat docker/dev.txt pyproject.toml) | cksum | tr ' ' -)

.PHONY: help setup repro check test test-nightly lint docs bench bench-gpu doctor stale pull push bench-decoding architecture base remote preset study pin image compare check-compare check-requests check-ray check-serve fuzz-serve report clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

$(STAMP):
	@docker/venv.sh "$(PYTHON)" .venv docker/dev.txt
	@rm -f .venv/setup-* && touch $@

ifneq ($(TARGET),)
ifneq ($(filter-out cpu gpu test,$(TARGET)),)
$(error TARGET is $(TARGET), not cpu or gpu)
endif
WORDS = $(if $(ARGS),ARGS='$(ARGS)')
repro bench: ; @$(IN) $@-$(TARGET)
doctor pull push remote stale: ; @$(IN) repro-$(TARGET) make $@ $(WORDS)
architecture: ; @$(IN) repro-$(TARGET) $(if $(filter gpu,$(TARGET)),python -m gpu.architecture,make $@)
test: ; @$(if $(filter gpu,$(TARGET)),$(error tests run in the image for cpu: make test TARGET=cpu),$(IN) test make test $(WORDS))
setup check lint docs test-nightly bench-decoding bench-gpu base preset study pin compare check-compare check-requests check-ray check-serve fuzz-serve report: ; $(error make $@ runs outside of images: leave TARGET out)
else
setup: $(if $(CARTLM_IMAGE),,$(STAMP)) # the virtual environment and llama.cpp; the other targets call it
	@$(if $(CARTLM_IMAGE),$(PY) -I cartlm/system/llama_cpp_check.py,docker/llama_cpp.sh --quiet --venv .venv)

# In the image for cards all but bench-cpu and bench-decoding, which belong to the other target; empty: the whole graph.
STAGES := $(if $(filter gpu,$(CARTLM_IMAGE)),eval-reference eval eval-gptq)
repro: setup ## the whole chain from data to speed; prints the results
	@$(CARTLM) params check
	@$(CARTLM) prune
	@$(CARTLM) fetch-paid
	@$(CARTLM) refresh-data
	@if [ -n "$$($(DVC) remote list)" ]; then $(DVC) repro --pull $(STAGES); else $(DVC) repro $(STAGES); fi
	@$(if $(STAGES),$(DVC) repro -s summarize)
	@$(CARTLM) check-models
	@$(CARTLM) readme-table
	@$(CARTLM) table

check: lint ## the minute before a commit: lint and unit tests
	@$(PYTEST) tests/unit $(ARGS)

test: setup ## all tests but the nightly ones
	@docker/llama_cpp.sh --quiet --portable --libraries
	@$(PYTEST) $(ARGS)

test-nightly: setup # tests that take long: kills, two machines, other graphs, all model families
	@docker/llama_cpp.sh --quiet --portable --libraries
	@$(PYTEST) -m nightly $(ARGS)

bench: setup ## speed, memory and energy again (CHECK=1: only on the committed machine)
	@$(CARTLM) check-inputs bench-cpu
	@$(DVC) repro -f -s bench-cpu
	@$(DVC) repro -s summarize
	@$(CARTLM) readme-table
	@$(PY) -m pytest -q tests/benchmarks --benchmark-enable --benchmark-autosave --benchmark-compare

bench-decoding: setup ## latency of each decoding mode again (or of another file: NAME=, MODEL=)
	@$(if $(NAME)$(MODEL),$(PY) -m stages.bench_decoding $(if $(NAME),--name "$(NAME)") $(if $(MODEL),--model "$(MODEL)"),$(DVC) repro -f -s bench-decoding)
	@$(CARTLM) readme-table

doctor: setup ## what this machine can do, and what each missing thing costs
	@$(CARTLM) doctor

architecture: setup ## speed of Llama 3.2 1B with random weights on this machine
	@$(CARTLM) params check
	@$(CARTLM) prune
	@$(DVC) repro architecture/dvc.yaml
	@$(CARTLM) readme-table

remote: setup ## accuracy, latency and cost of the servers in params.yaml
	@$(CARTLM) params check
	@$(CARTLM) check-remote
	@if [ -n "$$($(DVC) remote list)" ]; then $(DVC) repro --pull remote/dvc.yaml; else $(DVC) repro remote/dvc.yaml; fi
	@$(CARTLM) readme-table

stale: setup # which committed numbers are older than code and params (ARGS=--json)
	@$(CARTLM) stale $(ARGS)

pull: setup ## models and data from the DVC remote
	@$(CARTLM) pull

push: setup ## models, data and paid answers to the DVC remote
	@$(CARTLM) push

lint: setup # ruff, mypy, and the direction of imports
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@lint-imports

docs: $(if $(CARTLM_IMAGE),,$(STAMP)) ## the documentation, into build/site
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo "build/site is ready; to read and search it: python3 -m http.server --directory build/site"

bench-gpu: setup ## speed, memory, energy and accuracy on this machine's CUDA GPU
	@$(CARTLM) check-inputs gpu/dvc.yaml:bench-gpu
	@$(DVC) repro -f -s gpu/dvc.yaml:bench-gpu
	@$(CARTLM) readme-table

base: setup # make the embedded base model again (hours on a CPU), into base/model
	@$(DVC) repro base/dvc.yaml
	@$(CARTLM) accept-base

preset: setup ## lay a preset over params.yaml (NAME=paper; YES=1 agrees to its download)
	@$(CARTLM) preset $(or $(NAME),$(error name one of presets/: make preset NAME=paper)) $(if $(filter 1,$(YES)),--yes)

study: setup ## run a preset beside the default, its numbers into results/ (NAME=paper, STAGES=, YES=1)
	@$(CARTLM) study $(or $(NAME),$(error name one of presets/: make study NAME=paper)) $(foreach each,$(STAGES),--stage $(each)) $(if $(filter 1,$(YES)),--yes) $(ARGS)
	@$(CARTLM) readme-table

pin: setup # ask the hub for the revisions in params.yaml, and the registry for the base images' digests
	@$(CARTLM) pin
	@$(CARTLM) pin-images

compare: setup ## what changed since this branch left main (REV=, WITH=)
	@$(CARTLM) compare $(or $(REV),$(shell git merge-base HEAD main 2>/dev/null || git merge-base HEAD origin/main 2>/dev/null),$(error there is no main here; name a commit: make compare REV=HEAD~1)) $(WITH) $(ARGS)

report: setup ## all numbers as one page that opens from disk: build/report.html
	@$(CARTLM) report $(ARGS)

check-compare: setup # N=20 measurements of one commit are no change; a planted loss and slow-down are found
	@$(PY) -m tests.benchmarks.check_compare --times $(or $(N),20)

check-requests: setup # 16 requests in flight against a server that takes 200 ms are at least 60 a second
	@$(PY) -m tests.benchmarks.check_requests

check-serve: setup # cartlm serve at 4 times the rate that it sustains, beside its reader (MODEL=q4_k_m, ARGS=)
	@$(PY) -m tests.benchmarks.check_serve $(or $(MODEL),q4_k_m) $(ARGS)

fuzz-serve: setup # 10,000 requests that follow the OpenAPI description or break it, by schemathesis (half an hour)
	@CARTLM_SCHEMATHESIS="1250 examples,coverage,fuzzing,stateful" $(PY) -m pytest -q -s -n 0 -o timeout=0 tests/component/serving/http/test_description.py

check-ray: setup # N=100000 messages by two actors of Ray, killed and resumed, get the answers of one process; the speed of both (TIMED=5000)
	@$(PY) -m tests.benchmarks.check_ray --messages $(or $(N),100000) --timed $(or $(TIMED),5000)

endif

image: ## the image of a hardware target (TARGET=cpu, gpu or test)
	@docker/compose.sh image $(or $(TARGET),cpu) $(ARGS)

clean: ## remove data, models and runs; paid answers of the pipeline, studies, stored catalogs and caches stay
	[ ! -d data ] || find data -mindepth 1 -maxdepth 1 ! -name answers ! -name responses.jsonl -exec rm -rf {} +
	[ ! -d runs ] || find runs -mindepth 1 -maxdepth 1 ! -name studies ! -name serve -exec rm -rf {} +
	rm -rf models build .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
