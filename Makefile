# The commands of the project. PG_CONFIG and DESTDIR mean what they mean in PGXS.

PG_CONFIG ?= pg_config
export DESTDIR

.PHONY: help demo test install installcheck bench fmt clean

help:
	@echo 'make demo                       shows the main job on real events, in a throw-away cluster'
	@echo 'make test                       runs every test, after installing what a fresh Debian 12 lacks'
	@echo 'make install PG_CONFIG=...      builds a release and installs it into that PostgreSQL (15 to 18)'
	@echo 'make installcheck PG_CONFIG=... runs the regression tests in a throw-away cluster of that PostgreSQL'
	@echo 'make bench                      compares with other ways to do the same, side by side'
	@echo 'make fmt                        formats the Rust code'
	@echo 'make clean                      removes what was built'

demo:
	@scripts/demo

test:
	@scripts/test

install:
	@scripts/install '$(PG_CONFIG)'

installcheck:
	@scripts/regress '$(PG_CONFIG)'

bench:
	@bench/run

fmt:
	@cargo fmt --all

clean:
	@cargo clean
