# flatnet: `make` builds into bin/; `sudo make demo` shows what it does; `sudo make test` runs every test.
# Building needs Go, git and make. The demo and the tests install what they need beside: hack/deps.

GO      ?= go
DESTDIR ?=
PREFIX  ?= /usr/local
UNITDIR ?= /usr/lib/systemd
FUZZTIME ?= 10s

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The binaries are static: they run on any Linux, in any mount namespace.
LINK  = -s -w -X main.version=$(VERSION)
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LINK)' $(EARLY)
# The CNI plugin does its usual work before Go's runtime starts (docs/decisions/0019).
ifeq ($(shell $(GO) env GOARCH),amd64)
EARLY = -ldflags './cmd/flatnet-cni=$(LINK) -E main.begin'
endif

build: ## static binaries in bin/
	$(BUILD) -o bin/ ./cmd/...

demo: root build ## three hosts become one network, in namespaces of their own: this machine's network is not touched
	@hack/deps demo
	@demo/hosts

demo-host: build stage root ## one machine's first hour, likewise
	@hack/deps demo
	@demo/enter demo/story

stage: # the tools of the demo
	@CGO_ENABLED=0 $(GO) build -o bin/demo/probe ./demo/probe
	@ln -sf probe bin/demo/serve
	@ln -sf probe bin/demo/fetch

# What kills real daemons at every step: the race detector would only make their starts four times as long.
KILLED = ^TestKilledDaemonsConverge$$

test: root ## every test: traffic in network namespaces, so it needs root
	@hack/deps
	$(GO) vet ./...
	$(GO) test -race -shuffle=on -timeout 20m -skip '$(KILLED)' ./...
	CGO_ENABLED=0 $(GO) test -timeout 20m -run '$(KILLED)' ./internal/agent

test-cluster: root ## what a cluster lives through, with the stories that take long (10 min)
	CLUSTER_LONG=1 $(GO) test -v -timeout 30m ./test/cluster ./test/fail

test-cni: root ## container runtimes on flatnet, with 10000 ADD and DEL (5 min)
	CNI_ROUNDS=10000 $(GO) test -v -timeout 30m ./test/cni

bench: build root ## the costs of docs/explanation/costs.md, measured on this machine
	$(GO) run ./bench

mutants: root ## take out one nft rule after the other: each must break a cell of the reachability table (15 min)
	REACH_MUTANTS=. $(GO) test -timeout 1h -run EveryRule ./test/reach

fuzz: ## every fuzz target for FUZZTIME
	@hack/fuzz $(FUZZTIME)

generate: ## the Go code of bpf/; needs clang and llvm-strip
	$(GO) generate ./...

install: build ## into DESTDIR/PREFIX, with the systemd unit
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin bin/flatnet
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/sbin bin/flatnetd bin/flatnet-etcd
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/lib/flatnet bin/flatnet-cni # from where `flatnet cni install` takes it to runtimes
	install -d $(DESTDIR)$(UNITDIR)/system $(DESTDIR)$(UNITDIR)/network
	sed 's|@PREFIX@|$(PREFIX)|' init/flatnetd.service > $(DESTDIR)$(UNITDIR)/system/flatnetd.service
	install -D -m 0644 init/10-flatnet.network $(DESTDIR)$(UNITDIR)/network/10-flatnet.network
	install -D -m 0644 init/10-flatnet-networkmanager.conf $(DESTDIR)/usr/lib/NetworkManager/conf.d/10-flatnet.conf

clean:
	rm -rf bin

root:
	@test "$$(id -u)" = 0 || { echo "this makes network namespaces and needs root: sudo make $(MAKECMDGOALS)" >&2; exit 1; }

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: build demo demo-host stage test test-cluster test-cni bench mutants fuzz generate install clean root help
.DEFAULT_GOAL := build
