# goftl. `make help` explains every target.

GO        ?= go
SEEDS     ?= 10000
SEED      ?= 0
TIME      ?= 60s
FUZZTIME  ?= 20s
TIMEOUT   ?= 20m
DIR       ?= run/ftl0
SIZE      ?= 8GiB
RUNARGS   ?=
MUTANTARGS ?=
E2E       ?= .

# Packages are named by folder, not ./..., so that a target says what it runs.
ALL       := ./...
UNIT      := $(shell $(GO) list ./... 2>/dev/null | grep -v -e '/tests/')
SIMPKGS   := $(shell $(GO) list ./tests/sim/... 2>/dev/null)
APPS      := $(patsubst apps/%/main.go,%,$(wildcard apps/*/main.go))
LINT      := $(GO) tool -modfile=tools/go.mod golangci-lint
FUZZPKGS  := $(shell grep -rl --include='*_test.go' '^func Fuzz' . 2>/dev/null | xargs -r -n1 dirname | sort -u)

.DEFAULT_GOAL := help
.PHONY: help build vet test race sim sim-ci sim-shrink sim-mutants fuzz bench bench-yardstick bench-file bench-ftl bench-zoned bench-nbd lint lint-selftest fmt e2e torture run ci clean

help: ## Explain the targets
	@printf 'goftl: a flash translation layer in user space\n\nUsage: make TARGET [VAR=value]\n\n'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nTo begin with: make run (serve a device), make test (unit tests).\n'

build: ## Build the commands into bin/ (ftlnbd, ftlperf)
	@mkdir -p bin
	$(GO) build $(ALL)
	@for a in $(APPS); do echo "$(GO) build -o bin/$$a ./apps/$$a"; CGO_ENABLED=0 $(GO) build -trimpath -o bin/$$a ./apps/$$a || exit 1; done

vet: ## go vet, also of what has a build tag
	$(GO) vet -tags e2e,bench,mutants,lint $(ALL)

test: ## Unit tests of every package, and a short run of the simulator
	$(GO) test -timeout $(TIMEOUT) $(UNIT) $(SIMPKGS)

# The FTL's own tests drive one thread in one goroutine: the detector has nothing to see there, and they take minutes.
RACE      = $(filter-out goftl/ftl,$(UNIT))

race: ## The unit tests of everything that uses reactors or goroutines, under the race detector
	$(GO) test -race -timeout $(TIMEOUT) $(RACE)

sim: ## Simulator: SEEDS=n seeds in all worlds together, from SEED=s on (SEED=0: fresh ones; a failing seed prints how to replay it)
	@failed=; seed=$(SEED); [ "$$seed" != 0 ] || seed=$$(date +%s)000000; \
	echo "== the same again: make sim SEEDS=$(SEEDS) SEED=$$seed"; \
	for p in ./tests/sim ./tests/sim/ftlsim ./tests/sim/nbdsim; do \
	  echo "$(GO) test $$p -v -timeout 0 $(SIMARGS) -total $(SEEDS) -seed $$seed"; \
	  $(GO) test $$p -v -timeout 0 $(SIMARGS) -total $(SEEDS) -seed $$seed || failed=1; \
	done; [ -z "$$failed" ]

SIMTEST ?= TestFTL

sim-shrink: ## Make a failing case of the simulator smaller: SEED=n of SIMTEST=TestFTL (TestFTLFaults, ...)
	$(GO) test ./tests/sim/ftlsim -run '^$(SIMTEST)$$' -seed $(SEED) -shrink -v -timeout 0

# The same seeds every time say that nothing got worse, fresh ones find what nobody has seen yet.
sim-ci: ## What CI runs of the simulator: CISEEDS=1250 fixed seeds in all worlds, then CIFRESH=1250 fresh ones (the first is printed)
	@$(MAKE) --no-print-directory sim SEEDS=$(CISEEDS) SEED=$(CISEED)
	@$(MAKE) --no-print-directory sim SEEDS=$(CIFRESH)

sim-mutants: SEEDS = 5000
sim-mutants: ## One deliberate defect in the FTL or the NBD server at a time: the simulator must find each within SEEDS=5000 seeds
	$(GO) run ./tests/sim/mutants -seeds $(SEEDS) $(MUTANTARGS)

fuzz: ## Every fuzz target for FUZZTIME=20s each (FUZZTIME=300x: so many inputs)
	@set -e; for d in $(FUZZPKGS); do \
	  for f in $$(grep -h '^func Fuzz' $$d/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/' | sort -u); do \
	    echo "$(GO) test $$d -fuzz=^$$f$$ -fuzztime=$(FUZZTIME)"; \
	    $(GO) test $$d -run='^$$' -fuzz="^$$f\$$" -fuzztime=$(FUZZTIME); \
	  done; done

BENCHARGS ?=
BENCH     := $(GO) run ./tests/bench $(BENCHARGS)

bench: build ## Messages, pollers, reactors, null and malloc devices, metadata, beside the yardstick (BENCHARGS='-rounds 5 ...')
	$(BENCH) floor

bench-yardstick: build ## The yardstick that figures are compared with (4 KiB random log-write in one thread)
	$(BENCH) yardstick

bench-file: build ## ftlperf on a file against fio's io_uring engine on the same file, same run
	$(BENCH) file

bench-ftl: build ## The FTL: IOPS of the yardstick, create, load, recovery after kill -9, memory (BENCHARGS=-big: after 14 and 40 GiB)
	$(BENCH) ftl

bench-zoned: build ## Zoned bases and no cache: against the zones themselves, the yardstick, and a conventional base in one run
	$(BENCH) zoned

bench-nbd: build ## ftlnbd in memory against nbdkit, qemu-nbd and nbd-server, same run, same client (BENCHARGS=-fio: with fio too)
	$(BENCH) nbd

lint: ## golangci-lint (pinned in tools/go.mod, builds itself), gofumpt and gci
	$(LINT) run ./...

lint-selftest: ## Plant every forbidden import, and clocks and random numbers, in a copy of the folders: the linter must refuse each
	$(GO) test -tags lint -count=1 -v ./tests/lint

fmt: ## Rewrite the sources with gofumpt and gci
	$(LINT) fmt ./...

e2e: build ## Real clients against the real binary: file systems, fio, nbdcopy, qemu-img, kill -9, a short torture (root: mounts too)
	$(GO) test -tags e2e -count=1 -timeout 30m -p 1 -v -run '$(E2E)' ./tests/e2e ./tests/torture

torture: build ## Kill the real server in every way for TIME=60s, over real files, and compare every block (SEED=s: again; TORTUREARGS='-v ...')
	$(GO) run ./tests/torture -time $(TIME) -seed $(SEED) $(TORTUREARGS)

run: build ## Build, serve a device from DIR=run/ftl0 (SIZE=8GiB), print the commands to type next
	bin/ftlnbd serve --dir $(DIR) --size $(SIZE) $(RUNARGS)

CIPARTS     ?= build vet lint lint-selftest test race sim-ci fuzz e2e
CIFUZZTIME  ?= 300x
CISEEDS     ?= 1250
CISEED      ?= 5000
CIFRESH     ?= 1250

ci: ## What CI runs: build, vet, lint and its selftest, test, race, sim (fixed and fresh seeds), fuzz (300 inputs), e2e; says how long each part took
	@set -e; for part in $(CIPARTS); do \
	  echo "== make $$part"; t0=$$(date +%s); \
	  $(MAKE) --no-print-directory $$part FUZZTIME=$(CIFUZZTIME); \
	  echo "== make $$part: $$(( $$(date +%s) - t0 )) s"; \
	done

clean: ## Remove what was built (bin/), not what was served (run/)
	rm -rf bin
