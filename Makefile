# Every target sets up what it needs in .venv by itself; `touch setup.cfg` sets it up anew.
PYTHON ?= python3
OLDEST_PYTHON ?= python3.11
BIN := .venv/bin
RUN := OMP_NUM_THREADS=1 $(BIN)/python
DATA ?=
ARGS ?=
N ?= 1000
BENCH ?= step

.PHONY: setup demo test test-fast test-oldest compatibility fuzz lint bench coverage digits-table train-digits has-cifar10 train-cifar10 compare has-imagenet train-imagenet

setup: .venv/ready

.venv/ready: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev,benchmarks]"
	touch $@

demo: setup
	$(RUN) -m lightning_modules.demo $(ARGS)

test: setup
	$(RUN) -m pytest -n 2 --dist worksteal $(ARGS)

# every folder of gdp, without the tests that are marked slow: at most two minutes on two cores
test-fast: setup
	$(RUN) -m pytest -n 2 --dist worksteal -m "not slow" $(ARGS)

# all tests on the oldest versions that setup.cfg allows; for some of them Python 3.12 has no wheels
test-oldest: .venv-oldest/ready
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

.venv-oldest/ready: setup.cfg pyproject.toml tests/oldest.txt
	test -x .venv-oldest/bin/python || $(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -c tests/oldest.txt \
	  -e ".[dev,benchmarks]"
	touch $@

# runs the tests that prove a feature, and writes docs/compatibility.md from them
compatibility: setup
	$(RUN) -m pytest -m feature -n 2 $(ARGS)
	$(RUN) -m pytest -m feature --collect-only --compatibility=docs/compatibility.md

fuzz: setup
	RANDOM_NETS=$(N) $(RUN) -m pytest tests/integration/test_random_networks.py -s -p no:logging $(ARGS)

# style, docstrings and private names; formatting; types
lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# one of: accuracy, layers, compare.similarity, step, step.trace_time, training_cost, latency, latency.cost, scale; its options in ARGS
bench: setup
	$(RUN) -m benchmarks.$(BENCH) $(ARGS)

# ARGS="--suite packages" runs in an environment of its own, with the packages of benchmarks/coverage/packages.txt
coverage: $(if $(findstring packages,$(ARGS)),.venv-packages/ready,setup)
	OMP_NUM_THREADS=1 $(if $(findstring packages,$(ARGS)),.venv-packages/bin,$(BIN))/python -m benchmarks.coverage $(ARGS)

.venv-packages/ready: setup.cfg pyproject.toml benchmarks/coverage/packages.txt
	test -x .venv-packages/bin/python || $(PYTHON) -m venv .venv-packages
	.venv-packages/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r benchmarks/coverage/packages.txt -e ".[benchmarks]"
	touch $@

digits-table: setup
	$(RUN) -m benchmarks.accuracy.digits $(ARGS)

train-digits: setup
	$(RUN) -m lightning_modules.train fit --config configs/digits_resnet20.yaml $(ARGS)

has-cifar10:
	@test -n "$(DATA)" && { test -d "$(DATA)/train" || test -d "$(DATA)/cifar-10-batches-py"; } || { \
	  echo "make $(filter compare train-cifar10,$(MAKECMDGOALS)) expects DATA=<folder> that holds cifar-10-batches-py, or train/<class>/ and test/<class>/ images, but got DATA='$(DATA)'."; exit 2; }

train-cifar10: has-cifar10 setup
	$(RUN) -m lightning_modules.train fit --config configs/cifar10_resnet20.yaml --data.root="$(DATA)" $(ARGS)

# every method on the same images; ARGS="--model resnet20 --target 0.3 --seeds 3"; goes on where it was stopped
compare: has-cifar10 setup
	$(RUN) -m benchmarks.compare --data "$(DATA)" $(ARGS)

has-imagenet:
	@test -n "$(DATA)" && test -d "$(DATA)/train" && test -d "$(DATA)/val" || { \
	  echo "make train-imagenet expects DATA=<folder> that holds train/<class>/ and val/<class>/ images (ImageFolder layout), but got DATA='$(DATA)'."; exit 2; }

train-imagenet: has-imagenet setup
	$(RUN) -m lightning_modules.train fit --config configs/imagenet_resnet50.yaml --data.root="$(DATA)" $(ARGS)
