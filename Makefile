# Two commands matter: `make drill` (the main job) and `make verify` (everything that checks the project).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

CALLS ?= 50
RUNS ?= 1
FABRICS ?= ec2 lan
CARGO ?= cargo

.PHONY: help drill drill-only build verify setup

help:
	@echo "make drill    build in release and cut off the active host under $(CALLS) calls, on: $(FABRICS)"
	@echo "make verify   format, lints, tests, drills, docs: everything that checks the project"

build:
	$(CARGO) build --release --locked -p tandem -p tandem-chaos

drill: setup-drill build drill-only

drill-only:
	for fabric in $(FABRICS); do \
		./target/release/tandem-chaos drill kill-host --fabric $$fabric --calls $(CALLS) --runs $(RUNS); \
	done

.PHONY: setup-drill
setup-drill:
	./chaos/setup.sh drill

setup:
	./chaos/setup.sh verify

verify: setup
	./chaos/verify.sh
