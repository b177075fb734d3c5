# Everything that is run by hand or by CI. `make test` needs cargo and nothing else: what the tests
# call and is not there is installed, where that is possible.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test

# Tools that cargo builds for us lie here and not in the user's own folder.
TOOLS := $(CURDIR)/target/tools
export PATH := $(TOOLS)/bin:$(PATH)

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 10

# What is called, and the Debian package that has it.
NEEDED := cc:gcc curl:curl nginx:nginx-light wrk:wrk systemd-socket-activate:systemd

.PHONY: run test soak lint bench fuzz ci tools

# A gateway to try things on, with everything it needs made in ./keyward-data.
run:
	cargo run --release --locked -- quickstart

test: tools
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked; else cargo test --locked; fi

# The long form of every test that has one: an hour or so. What a variable means is said where it is
# read; each can be set from outside.
soak: export KEYWARD_TEST_UPGRADES ?= 50
soak: export KEYWARD_TEST_RELOADS ?= 1000
soak: export KEYWARD_MUTANTS ?= 100000
soak: export KEYWARD_PATHS ?= 1000000
soak: export KEYWARD_SLOW ?= 9000
soak: export KEYWARD_SOAK_REVOCATIONS ?= 1000
soak: export KEYWARD_SOAK_KILLS ?= 20
soak: export KEYWARD_SOAK_LIVES ?= 10000
soak: export KEYWARD_SOAK_HISTORIES ?= 100000
soak: export KEYWARD_STALE_REQUESTS ?= 100000
soak: tools
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked $(SOAK); else cargo test --locked $(SOAK); fi

lint:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

bench:
	cargo bench --locked

# On the stable toolchain: RUSTC_BOOTSTRAP lets it instrument the code. No address sanitizer: this
# code has no unsafe blocks, and without it the build and the runs are several times faster.
fuzz: $(TOOLS)/bin/cargo-fuzz
	@export RUSTC_BOOTSTRAP=1; \
	cargo fuzz build --sanitizer none; \
	for target in $$(cargo fuzz list); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
		cargo fuzz run --sanitizer none "$$target" -- -max_total_time=$(FUZZ_SECONDS) -verbosity=0 -print_final_stats=1; \
	done

$(TOOLS)/bin/cargo-fuzz:
	cargo install cargo-fuzz --version 0.13.2 --locked --root $(TOOLS)

# The order is by what fails soonest.
ci: lint test
	cargo bench --no-run --locked
	$(MAKE) fuzz

tools:
	@missing=(); \
	for pair in $(NEEDED); do command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}"); done; \
	if [ "$${#missing[@]}" -eq 0 ]; then exit 0; fi; \
	if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends "$${missing[@]}"; \
	else \
		echo "the tests call these, and they are not here: $${missing[*]}" >&2; exit 1; \
	fi
