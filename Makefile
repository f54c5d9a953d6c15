# Sporkle's entry points. Each does what it needs first: `make demo` or `make test` is all that a fresh machine needs.
#
#   make setup    install the Debian packages (tools/packages.txt)   make check    formatting, layering, links in the docs
#   make build    build/release/sporkle                              make format   format the sources in place
#   make demo     train a small GPT on a mesh of five processes      make clean    remove the build (data sets stay)
#   make test     build everything and run every test                make test-sanitizers    the tests under asan and tsan
#
# JOBS=n overrides the number of parallel jobs; PRESET=debug|asan|tsan chooses another build for build and test.

PRESET ?= release
JOBS ?= $(shell tools/jobs.sh)
DEMO_FLAGS ?=

.DEFAULT_GOAL := build
.PHONY: setup build demo test test-sanitizers check format clean

setup:
	@tools/setup.sh

build: setup
	@tools/build.sh $(PRESET) $(JOBS) sporkle

demo: setup
	@tools/build.sh release $(JOBS) sporkle
	@build/release/sporkle demo $(DEMO_FLAGS)

test: setup
	@tools/test.sh $(PRESET) $(JOBS)

test-sanitizers: setup
	@tools/test.sh asan $(JOBS)
	@tools/test.sh tsan $(JOBS)

check: setup
	@tools/check_layers.py
	@tools/check_style.py

format: setup
	@tools/check_style.py --fix

clean:
	rm -rf build/release build/debug build/asan build/tsan
