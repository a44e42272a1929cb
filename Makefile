# The short way to each chore. scripts/bootstrap installs what a chore needs and the machine lacks;
# everything else is in scripts/demo and `cargo xtask`.

# Where rustup puts cargo, which a shell of root's may not know.
export PATH := $(PATH):$(HOME)/.cargo/bin

# A built `ace` to use instead of building one: make demo BIN=target/release/ace
BIN ?=

RELEASE := $(or $(CARGO_TARGET_DIR),target)/release/ace

# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 300

.PHONY: help demo test build fuzz install-tools

help:
	@echo 'make demo           build ACE, deploy the examples, and serve them until Ctrl-C'
	@echo 'make demo ONCE=1    the same, but end after checking that they answer'
	@echo 'make test           everything that continuous integration checks (needs root)'
	@echo 'make build          $(RELEASE)'
	@echo 'make fuzz           what reads hostile bytes, by a guided fuzzer (nightly, cargo-fuzz)'
	@echo 'make install-tools  what building, running and testing need, by apt-get'

ifeq ($(BIN),)
demo: build
	@scripts/bootstrap run
	@scripts/demo $(RELEASE)
else
demo:
	@scripts/bootstrap run
	@scripts/demo $(BIN)
endif

test:
	@scripts/bootstrap build lint run
	@cargo xtask check

build:
	@scripts/bootstrap build
	@cargo build --release --package ace --bin ace

fuzz:
	@for target in $(notdir $(wildcard fuzz/seeds/*)); do \
		mkdir -p fuzz/corpus/$$target; \
		cargo +nightly fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=25 || exit 1; \
	done

install-tools:
	@scripts/bootstrap build lint run
