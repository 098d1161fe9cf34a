# Everything runs in one profile, release: a debug build of the cryptography would make the tests slow, and a second
# profile would double the cold build. CARGO_TARGET_DIR is respected.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help build test ssh-audit interop demo bench fuzz fuzz-ci check wording clean

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
# The whole workspace at once, here as in the tests, so that both agree on the features of shared dependencies.
FLAGS := --release --locked --workspace
BUILD_TOOLS := cargo cc make perl
TEST_TOOLS := $(BUILD_TOOLS) sftp openssl python3-venv keytool puttygen psftp lftp curl node npm sshfs dbclient oathtool sshpass sk-dummy haproxy tinyproxy strace
export AS2GATE_BIN ?= $(abspath $(TARGET))/release/as2gate

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the release binary as2gate
	@.ci/prerequisites $(BUILD_TOOLS)
	@$(CARGO) build $(FLAGS) --bin as2gate
	@echo "built $(AS2GATE_BIN)"

test: ## run every test; whole-system tests use OpenSSH, OpenSSL, keytool, pyas2lib and SFTP clients
	@.ci/prerequisites $(TEST_TOOLS)
	@$(MAKE) --no-print-directory build
	@$(CARGO) test $(FLAGS) --no-fail-fast -- --test-threads=4

interop: ## pyas2lib, libas2, OpenAS2 and openssl cms as partners, both directions, over the positive matrix
	@.ci/prerequisites $(BUILD_TOOLS) openssl python3-venv keytool npm mvn
	@$(MAKE) --no-print-directory build
	@tests/interop/setup.sh $(abspath $(TARGET))/interop/tools
	@PYTHONDONTWRITEBYTECODE=1 python3 tests/interop/run.py --bin $(AS2GATE_BIN) --dir $(TARGET)/interop

ssh-audit: ## ssh-audit over every algorithm policy of the SFTP door
	@.ci/prerequisites $(BUILD_TOOLS) python3-venv
	@$(MAKE) --no-print-directory build
	@tests/ssh-audit/run.sh $(AS2GATE_BIN) $(abspath $(TARGET))/ssh-audit

demo: ## ALICE sends three files to BOB through two gateways; under two minutes after the build
	@.ci/prerequisites $(BUILD_TOOLS) sftp openssl python3
	@$(MAKE) --no-print-directory build
	@examples/two-stations/demo.sh

bench: ## measure ours and its rivals side by side, PART=bulk only that part; writes target/bench.json
	@.ci/prerequisites $(BUILD_TOOLS) sftp sshd openssl python3 keytool npm mvn
	@$(MAKE) --no-print-directory build
	@$(CARGO) build $(FLAGS) --example bulk
	@PYTHONDONTWRITEBYTECODE=1 python3 tests/bench/run.py --target $(TARGET) $(addprefix --part ,$(PART)) $(BENCH_ARGS)

fuzz: ## fuzz every decoder of network bytes, FUZZ_SECONDS (300) for each target
	@.ci/prerequisites $(BUILD_TOOLS)
	@.ci/fuzz $(or $(FUZZ_SECONDS),300)

fuzz-ci: ## the same for 4 seconds each, from the seeds in the tree
	@.ci/prerequisites $(BUILD_TOOLS)
	@.ci/fuzz 4

check: wording ## format, clippy, docs, licences: what must hold before a commit
	@.ci/prerequisites $(BUILD_TOOLS)
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(FLAGS) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(FLAGS) --no-deps
	@.ci/deny

wording: ## no machine's paths, no package registry's host names; vendored crates are their releases and a patch
	@.ci/wording
	@.ci/vendored

clean: ## remove everything that was built
	$(CARGO) clean
