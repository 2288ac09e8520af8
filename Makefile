# The first Python of this machine that the system runs on; every other tool comes with the environments.
PYTHON := $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && command -v $$p && break; done)
SERVICES := .venv/services/bin
TRAIN := .venv/train/bin
RUNTIME := services triton flink
CODE := nearline nearline_client services flink_jobs training local benchmarks tools deploy tests

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help doctor machine environments demo up stop status reset test containers nightly test-model test-milvus observe test-browser screenshots bench-page bench bench-guard bench-index bench-train train evaluate quality docs site lint

help:  ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | awk -F '\t' '{printf "  make %-12s %s\n", $$1, $$2}'

doctor: python  ## what this machine lacks, with the mend of each
	@$(PYTHON) -m local.doctor

machine: python
	@$(PYTHON) -m local.doctor --quiet

environments: python
	@$(PYTHON) -m local.environments $(RUNTIME)
	@$(SERVICES)/python -m local.downloads

demo: machine environments  ## the whole system on this machine with a shop's history (CHECK=1: prove it, then stop)
	@$(SERVICES)/python -m local.demo $(if $(CHECK),--check)

up: machine environments  ## start the system in the background, empty or with what it kept
	@$(SERVICES)/python -m local.system up

stop:  ## end it; its data stays
	@if [ -x $(SERVICES)/python ]; then $(SERVICES)/python -m local.system stop; fi

status:  ## one line for each of its parts
	@if [ -x $(SERVICES)/python ]; then $(SERVICES)/python -m local.system status; else echo "  not built"; fi

reset:  ## stop it and delete its data (YES=1: without asking)
	@if [ -x $(SERVICES)/python ]; then $(SERVICES)/python -m local.system reset $(if $(YES),--yes); fi

test: python  ## all tests that need no torch, on two workers (ARGS="-n 0 -x tests/unit": on one, stop at the first failure)
	@$(PYTHON) -m local.environments $(RUNTIME) --dev
	@$(SERVICES)/python -m local.downloads --tests
	@$(SERVICES)/python -m pytest -n 2 --ignore tests/model --ignore tests/browser $(ARGS)

nightly: python  ## what takes too long for every change: property tests with ten times the examples, and bench-guard
	@$(PYTHON) -m local.environments $(RUNTIME) --dev
	@TEST_EXAMPLES=10 $(SERVICES)/python -m pytest -n 2 -m hypothesis tests/unit $(ARGS)
	@$(MAKE) bench-guard

test-model: python  ## the tests of the training code (brings torch: 2.5 GB to download)
	@$(PYTHON) -m local.environments train baselines
	@$(TRAIN)/python -m pytest tests/model $(ARGS)

test-milvus: python  ## the tests of the item index on Milvus (brings milvus-lite: 150 MB to download)
	@$(PYTHON) -m local.environments milvus services flink
	@$(SERVICES)/python -m local.downloads
	@.venv/milvus/bin/python -m pytest tests/contract/test_item_index.py tests/e2e/test_retrieval_on_milvus.py $(ARGS)

observe: environments  ## Prometheus beside the running system: rules, alerts, queries (PORT=9090)
	@$(SERVICES)/python -c "from local.debian import prepare_prometheus; prepare_prometheus()"
	@$(SERVICES)/python -m local.prometheus $(if $(PORT),--port $(PORT))

containers: environments  ## the trial's containers: build, start, click, kill, take down (FULL=1: kill each; build from the Dockerfiles)
	@$(SERVICES)/python -m tools.containers $(if $(FULL),--full)

test-browser: environments  ## the page in a real browser: Debian's Chromium before the whole system
	@$(PYTHON) -m local.environments services --dev
	@$(SERVICES)/python -m local.browser
	@$(SERVICES)/python -m pytest tests/browser $(ARGS)

screenshots: environments  ## the README's pictures of the page, into docs/pictures
	@$(PYTHON) -m local.environments services --dev
	@$(SERVICES)/python -m local.browser
	@$(SERVICES)/python -m tools.screenshots $(ARGS)

bench-page: environments  ## click to changed row, and first paint, by the browser's clock
	@$(PYTHON) -m local.environments services --dev
	@$(SERVICES)/python -m local.browser
	@$(SERVICES)/python -m benchmarks.page $(ARGS)

bench: environments  ## the benchmarks of docs/benchmarks.md (REF=COMMIT: beside that commit, round by round; ROUNDS=5)
	@$(SERVICES)/python -m benchmarks$(if $(REF),.reference $(REF) $(if $(ROUNDS),--rounds $(ROUNDS))) $(ARGS)

bench-guard: environments  ## has a click, an answer or a backlog become dearer than at the last landing here? (6 min; fails at 1.25 times)
	@$(SERVICES)/python -m benchmarks.reference.guard $(ARGS)

bench-index: environments  ## the index under churn: recall, reads, memory; beside what one would write without us
	@$(PYTHON) -m local.environments peers
	@$(SERVICES)/python -m benchmarks.index $(ARGS)

train: python  ## train towers on DATA=FOLDER (default: the demo's; ARGS=--write: serve them) (brings torch)
	@$(PYTHON) -m local.environments train services triton
	@$(TRAIN)/python -m training.train $(if $(DATA),--data $(DATA)) $(ARGS)
	@$(SERVICES)/python -m local.parity --exported build/train/exported

bench-train: python  ## how fast towers learn, and what Triton encodes: two tables, build/bench-train/ (brings torch)
	@$(PYTHON) -m local.environments train services triton
	@$(TRAIN)/python -m benchmarks.train_speed $(ARGS)
	@$(SERVICES)/python -m benchmarks.tower_speed $(ARGS)

evaluate: python  ## towers beside baselines, ablation, cold items: docs/results/<data>-study.json (DATA=FOLDER; 20 min)
	@$(PYTHON) -m local.environments train baselines
	@$(TRAIN)/python -m training.study $(if $(DATA),--data $(DATA)) $(ARGS)

quality: python  ## recall@10 and NDCG@10 as papers report them, DATA=FOLDER; ARGS=--test: on the test, docs/results/<data>.json
	@$(PYTHON) -m local.environments train
	@$(TRAIN)/python -m training.quality $(if $(DATA),--data $(DATA)) $(ARGS)

docs: python  ## docs/api.md of the services' OpenAPI documents and docs/api_examples.toml, docs/metrics.md, the dashboards
	@$(PYTHON) -m local.environments services --dev
	@$(SERVICES)/python -m tools.api_docs
	@$(SERVICES)/python -m tools.metrics_docs
	@$(SERVICES)/python -m tools.dashboards

site: python  ## the documentation as a site, build/site/index.html; a warning or a dead link is an error (needs npm once)
	@$(PYTHON) -m local.environments docs
	@.venv/docs/bin/python -m tools.site

lint: python  ## ruff, mypy, and that no more type names stand for several things
	@$(PYTHON) -m local.environments services --dev
	@$(SERVICES)/ruff check .
	@$(SERVICES)/ruff format --check .
	@$(SERVICES)/mypy $(CODE)
	@$(SERVICES)/python -m tools.type_names

.PHONY: python
python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: apt install python3.11 python3.11-venv python3.11-dev"; exit 1; }
