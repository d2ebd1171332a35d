# Two commands matter: `make drill` (the main job) and `make verify` (everything that checks the project).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

CALLS ?= 50
RUNS ?= 1
FABRICS ?= ec2 lan

.PHONY: help drill verify

help:
	@echo "make drill    build in release and cut off the active host under $(CALLS) calls, on: $(FABRICS)"
	@echo "make verify   format, lints, tests, drills, docs: everything that checks the project"

drill:
	@./chaos/setup.sh drill
	cargo build --release --locked -p tandem -p tandem-chaos
	@for fabric in $(FABRICS); do \
		./target/release/tandem-chaos drill kill-host --fabric $$fabric --calls $(CALLS) --runs $(RUNS); \
	done

verify:
	@./chaos/setup.sh verify
	@./chaos/verify.sh
