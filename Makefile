# make             builds target/release/syngate; it installs nothing, and tells what is missing
# make setup       installs what the build needs, on Debian and Ubuntu
# make demo        two hosts, haproxy, a load: bare, folk recipe, drop, hold, side by side
# make test        everything that CI runs: each case once
# make test-all    each case in each way: root, rootless, every backend
# make test-long   repetitions: kills at 200 random moments; figures in target/long
# make kill-rooms  kills runs with waiting rooms at 200 random moments, and at 100 with their guards
# make kill-keep   kills keeps at 200 random moments; what is in target/long is not repeated
# make test-kernels   the integration tests under other kernels, in VMs; KERNELS=, TESTS= select
# make test-kernel    a core of them under one kernel
# make test-arm64     a core of them under a kernel for arm64, in VMs, with syngate built for that
# make test-architectures  the unit tests built for arm64, armhf, i386 and s390x; ARCHITECTURES=, TESTS= select
# make kernel-features  what `syngate check` finds under each kernel, as a table in docs/kernels.md
# make test-ipvs      docs/load-balancers.md with keepalived and IPVS, in a VM
# make test-systemd   contrib/systemd under a real systemd, in a VM
# make bench       beside everything that people use today; QUICK=1 within 3 minutes; see tests/bench/README.md
# make bench-many  1,000,000 connections over 200 restarts, SYNs held
# make bench-rooms    waiting rooms beside bare and hold, with more rounds: 15 minutes
# make bench-render   tables and pictures from what was measured
# make faults      kills it, fails its system calls, disturbs it, at every point of a run; see docs/faults.md
# make faults-kernels   samples of that under other kernels, in VMs
# make soak        restarts under load for half an hour, every backend and action in turn
# make soak-keep   a crash or a restart every 2 s for half an hour while a keep stands by; SOAK_SECONDS=
# make fuzz        all that reads bytes or text, given anything; TARGET=, RUNS=, SECONDS= for each
# make valgrind    the messages to nf_tables, which unsafe code makes, under valgrind
# make mutants     changes in the decisions that no unit test notices: two hours; FILES= selects; goes on where it was
# make deny        licences, sources and duplicates of the crates; see deny.toml. make lint tells when
#                  it has to be run again
# make simulate    whole runs on a model of the machine, a million seeds; SEEDS=; goes on where it was
# make oldest-rust  whether it builds with the oldest Rust that Cargo.toml names
# make completions  writes contrib/completions anew, when options have changed
# make messages     writes the list of messages and docs/messages.md anew, when messages have changed
# make figures     what it costs to hold SYNs, with the optimised build
# make install     honours DESTDIR and PREFIX
# make install-doc  README, docs, and contrib with example profiles, for packages
# make deb         a Debian package, in target/deb
# make dist        tarballs for x86_64 and aarch64, in target/dist
# make rpm         rpms of these tarballs, in target/rpm
# make crate       what is published as a crate, in target/crate; tries to publish it
# make address     writes the repository's ADDRESS= into all that names it
# make distributions  builds on four suites of Debian, and restarts haproxy there, with that tarball and with packages
# make test-deb    the package in a fresh Debian: installed, used, upgraded, purged; SUITES=
# make test-rpm    the rpm in a fresh root: installed, used, upgraded, removed
# make test-arch   the same of contrib/arch, by pacman

PREFIX ?= /usr/local
ZSH_FUNCTIONS ?= $(PREFIX)/share/zsh/site-functions
CARGO ?= cargo
# What `make install` installs.
BUILT ?= target/release/syngate

# What the build, the demo and the tests need of Debian; see tests/ci/install-packages.
BUILD_PACKAGES := gcc libc6-dev libmnl-dev libnftnl-dev pkg-config
DEMO_PACKAGES := haproxy iproute2 iptables nftables util-linux
TEST_PACKAGES := apache2 bash-completion bind9 binutils bsdutils busybox-static cron curl dovecot-imapd dpkg-dev ethtool fonts-dejavu-core fish groff-base gunicorn keepalived libcap2-bin logrotate man-db mandoc netavark nginx-light nodejs openssh-client openssh-server openssl podman postfix postgresql procps prometheus python3 python3-apt python3-matplotlib python3-venv redis-server runc shellcheck strace systemd time unbound valgrind varnish zsh
BENCH_PACKAGES := fonts-dejavu-core gunicorn nginx-light nodejs openssh-server postgresql procps python3-matplotlib redis-server systemd time
DEB_PACKAGES := build-essential debhelper git
DIST_PACKAGES := binutils debootstrap iproute2 jq python3-venv util-linux
DEB_TEST_PACKAGES := debootstrap nftables util-linux
RPM_PACKAGES := rpm
RPM_TEST_PACKAGES := iproute2 libmnl0 libnftnl11 nftables rpm rpmlint util-linux
ARCH_TEST_PACKAGES := fakeroot iproute2 libarchive-tools makepkg nftables pacman-package-manager util-linux zstd
FUZZ_PACKAGES := g++ git
KERNEL_PACKAGES := busybox-static kmod qemu-system-common qemu-system-x86 xz-utils
ARCHITECTURE_PACKAGES := busybox-static kmod python3-venv qemu-system-misc qemu-user xz-utils
ARM64_PACKAGES := $(ARCHITECTURE_PACKAGES) qemu-system-arm

.PHONY: all demo kill-rooms kill-keep faults faults-kernels faults-render soak soak-keep fuzz simulate valgrind mutants deny bench bench-many bench-rooms bench-render bench-packages test test-all test-long figures test-kernels test-kernel test-arm64 test-architectures kernel-features test-systemd test-ipvs completions messages lint oldest-rust install install-doc uninstall deb test-deb dist rpm test-rpm test-arch crate address distributions clean \
  setup demo-packages test-packages

all:
	@CARGO=$(CARGO) tests/ci/needs
	$(CARGO) build --release

setup:
	@tests/ci/install-packages $(BUILD_PACKAGES)

demo-packages:
	@tests/ci/install-packages $(BUILD_PACKAGES) $(DEMO_PACKAGES)

test-packages:
	@tests/ci/install-packages $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(TEST_PACKAGES)
	@tests/ci/ansible-venv

demo: demo-packages
	$(CARGO) build --release --workspace
	target/release/testkit demo --syngate target/release/syngate

# The backends besides nft's own choice; see tests/harness.
BACKENDS := nft-plain iptables-nft iptables-legacy
PROMISED := guarantees rules
ALL_PROMISED := $(PROMISED) services hold redirect life edges scope
# What a user namespace makes a difference to.
ROOTLESS := backends contract edges guarantees life rules services
# Of held SYNs, what a backend or a user namespace makes a difference to; and what the guarantees are
# worth when SYNs are held.
HOLDS := $(addprefix hold::,clients copies deadline killed queue strangers way_out)
# The same of redirected connections.
REDIRECTS := $(addprefix redirect::,new_connections established killed left_when linger)
# And of diverted ones, a user namespace; they are nft's alone.
DIVERTS := $(addprefix divert::,new_connections established killed a_peer)
# What names its backend itself: on another one it would be the same once more.
OWN_BACKEND := $(addprefix -,guarantees::foreign guarantees::a_neighbour rules::the_table rules::many)
HELD := guarantees life services
HELD_CORE := $(addprefix guarantees::,killed foreign panic)

# Rooms and containers are for root of the host.
NOT_ROOTLESS := $(addprefix -,containers handover park parking recipes restart profiles 'room*' 'keep*' gaps)

# Once as root, most of it once more as somebody who is not, in a user namespace, and what runs
# promise on each of the other backends, and services whose SYNs are held. All of it in each way:
# make test-all. See tests/ci/run-tests for how these are named.
test: test-packages
	tests/ci/run-tests '*' \
	  -- TESTKIT_ROOTLESS=1 $(ROOTLESS) $(HOLDS) $(REDIRECTS) $(DIVERTS) \
	  $(foreach backend,$(BACKENDS),-- SYNGATE_TEST_BACKEND=$(backend) $(PROMISED) $(HOLDS) $(REDIRECTS) $(OWN_BACKEND)) \
	  -- SYNGATE_TEST_SYN=hold SYNGATE_TEST_BACKEND=iptables-nft services \
	  -- SYNGATE_TEST_SYN=hold $(HELD_CORE)
	tests/ci/valgrind

test-all: test-packages
	tests/ci/run-tests '*' \
	  -- TESTKIT_ROOTLESS=1 '*' '-bench/*' '-faults/*' '-*::of_several_users' '-*::of_root' '-*::cron_makes_a_push' '-*::over_ssh' \
	  $(NOT_ROOTLESS) \
	  $(foreach backend,$(BACKENDS),-- SYNGATE_TEST_BACKEND=$(backend) $(ALL_PROMISED)) \
	  $(foreach backend,$(BACKENDS),-- SYNGATE_TEST_SYN=hold SYNGATE_TEST_BACKEND=$(backend) $(HELD)) \
	  -- SYNGATE_TEST_SYN=hold $(HELD)

LONG := target/long
# Each round appends to the log; a round that was broken off can be repeated by itself.
test-long: test-packages
	$(CARGO) build --workspace --tests
	mkdir -p $(LONG)
	set -e; for backend in nft $(BACKENDS); do \
	  SYNGATE_TEST_BACKEND=$$backend SYNGATE_KILLS=200 SYNGATE_KILL_LOG=$(CURDIR)/$(LONG)/kills-$$backend.tsv \
	    $(CARGO) test --package syngate --test guarantees killed_at_random -- --nocapture; \
	  awk -F '\t' -v backend=$$backend '$$1 == "random" { n++; s += $$5; if ($$5 > m) m = $$5; k += $$3 == "true"; c += $$4 == "true" } \
	    END { printf "%s: %d kills, %d in mid-run, %d of them with the gate closed; no rule after %.1f ms on average, %.1f ms at most\n", backend, n, k, c, s / n, m }' \
	    $(LONG)/kills-$$backend.tsv; \
	done | tee $(LONG)/kills.txt
	SYNGATE_KILLS=100 SYNGATE_SLOW_STARTS=10 SYNGATE_LONG=1 SYNGATE_FLOOD=100000 \
	  $(CARGO) test --package syngate --test hold -- --nocapture --test-threads 1 2>&1 | tee $(LONG)/hold.txt
	set -e; for backend in nft $(BACKENDS); do \
	  SYNGATE_TEST_BACKEND=$$backend SYNGATE_KILLS=100 SYNGATE_RESTARTS=10 \
	    $(CARGO) test --package syngate --test redirect -- --nocapture --test-threads 1; \
	done 2>&1 | tee $(LONG)/redirect.txt
	SYNGATE_KILLS=50 SYNGATE_RESTARTS=10 \
	  $(CARGO) test --package syngate --test divert -- --nocapture --test-threads 1 2>&1 | tee $(LONG)/divert.txt
	SYNGATE_RESTARTS=20 \
	  $(CARGO) test --package syngate --test services a_held -- --nocapture 2>&1 | tee $(LONG)/hold-restarts.txt
	SYNGATE_RESTARTS=50 \
	  $(CARGO) test --package syngate --test checks no_client_meets -- --nocapture 2>&1 | tee $(LONG)/warms-up.txt
	SYNGATE_RESTARTS=50 SYNGATE_POSTS=100000 \
	  $(CARGO) test --package syngate --test checks goodbye -- --nocapture 2>&1 | tee $(LONG)/goodbye.txt

# For either kind of kill, the tests tell how many met a guard and how many clients failed.
kill-rooms: test-packages
	SYNGATE_KILLS=200 $(CARGO) test --package syngate --test room_kills costs_no_client -- --nocapture
	SYNGATE_KILLS=100 $(CARGO) test --package syngate --test room_kills leaves_nothing -- --nocapture

# So many of either kind of service.
kill-keep: test-packages
	mkdir -p $(LONG)
	SYNGATE_KILLS=100 SYNGATE_KILL_LOG=$(CURDIR)/$(LONG) $(CARGO) test --package syngate --test keep_kills -- --nocapture

# Rounds that are there are not repeated: a run that was broken off goes on where it was, and a larger
# ROUNDS adds to them.
ifdef QUICK
RESULTS ?= target/bench-quick
ROUNDS ?= 2
RUNS_OF_COSTS ?= 20
BENCH_RESTARTS := --rate 1000 --family ipv4 --mode fresh --subject 'haproxy restart' --subject 'nginx restart' --subject 'plain server'
BENCH_COSTS := --quick
else
RESULTS ?= target/bench
ROUNDS ?= 5
RUNS_OF_COSTS ?= 200
endif
# What the repository shows: make bench bench-many RESULTS=tests/bench/results, after removing what is there.
ifeq ($(RESULTS),tests/bench/results)
BENCH_RENDER := --readme README.md
endif
BENCH := target/release/bench
MEASURED := --results $(RESULTS) --syngate target/release/syngate

bench-packages:
	@tests/ci/install-packages $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(BENCH_PACKAGES)

bench: bench-packages
	$(CARGO) build --release --workspace
	$(BENCH) costs $(MEASURED) --runs $(RUNS_OF_COSTS) $(BENCH_COSTS)
	$(BENCH) restarts $(MEASURED) --rounds $(ROUNDS) $(BENCH_RESTARTS)
	$(MAKE) bench-render

bench-many: bench-packages
	$(CARGO) build --release --workspace
	$(BENCH) many $(MEASURED)
	$(MAKE) bench-render

# What the repository shows: make bench-rooms RESULTS=tests/bench/results/rooms, after removing what is there.
ROOMS_BESIDE = $(BENCH) restarts $(MEASURED) --mode fresh --family ipv4
bench-rooms: bench-packages
	$(CARGO) build --release --workspace
	$(ROOMS_BESIDE) --subject 'haproxy restart' --subject 'haproxy, paused' --subject 'haproxy, its socket kept' \
	  --way bare --way hold --way park --way handover --rounds 20
	$(ROOMS_BESIDE) --subject 'nginx reload, reuseport' --way bare --way hold --way handover --rate 3000 --rounds 25
	$(ROOMS_BESIDE) --subject 'haproxy reload (-sf)' --subject 'haproxy -st' --subject 'haproxy master-worker' \
	  --way bare --way hold --way handover --rounds 10
	$(ROOMS_BESIDE) --subject 'sshd, back after 3 s' --way bare --way hold --way park --rounds 3
	$(ROOMS_BESIDE) --subject 'nginx restart' --subject 'redis restart' --subject 'PostgreSQL restart' \
	  --subject 'node restart' --subject 'gunicorn restart' --way bare --way hold --way park --rounds 5
	$(MAKE) bench-render

bench-render: bench-packages
	$(CARGO) build --release --workspace
	tests/bench/plot.py $(RESULTS) || [ -e $(RESULTS)/many.jsonl ] || [ ! -e $(RESULTS)/costs.jsonl ]
	$(BENCH) render --results $(RESULTS) $(BENCH_RENDER)
	@echo "see $(RESULTS)/README.md"

# Many hours; trials that are there are not repeated, and SHARD=1/4 does the first of four parts. What takes
# seconds each comes in between, for a quarter of the time. Clients far away come last.
FAULTS := target/faults
SHARD ?= 1/1
TRIED = --results $(FAULTS)/$@-$(subst /,of,$(SHARD)).jsonl --syngate target/debug/syngate --shard $(SHARD)
faults: test-packages
	$(CARGO) build --workspace
	mkdir -p $(FAULTS)
	target/debug/faults neighbours $(TRIED)
	target/debug/faults matrix $(TRIED)
	target/debug/faults pairs $(TRIED)
	target/debug/faults pairs $(TRIED) --count 30 --choice 2 --rtt 20 --rtt 250 --rtt 600
	target/debug/faults matrix $(TRIED) --subject others --each 20
	target/debug/faults pairs $(TRIED) --subject others --count 20 --choice 3
	target/debug/faults neighbours $(TRIED) --subject others --each 2

faults-kernels: test-packages
	@tests/ci/install-packages $(KERNEL_PACKAGES)
	$(CARGO) build --workspace
	mkdir -p $(FAULTS)
	tests/ci/kernel-faults $(FAULTS)/kernels.jsonl $(KERNELS)

# What was tried, into the page that tells of it.
faults-render:
	$(CARGO) build --package faults
	target/debug/faults render --page docs/faults.md $(addprefix --results ,$(wildcard $(FAULTS)/*.jsonl $(SOAK)/*.jsonl))

# By real-time priority, as others may keep the machine busy: a client that is kept from sending its
# request is idle, and no drain waits for it.
SOAK := $(FAULTS)/soak
SOAK_SECONDS ?= 1800
soak: test-packages
	$(CARGO) build --workspace
	mkdir -p $(SOAK)
	chrt --rr 2 target/debug/faults soak --results $(SOAK)/soak.jsonl --syngate target/debug/syngate --seconds $(SOAK_SECONDS)

# Two services side by side. Each 30 s it tells how many gaps there were, and what keep has.
soak-keep: test-packages
	mkdir -p $(LONG)
	SYNGATE_SOAK_SECONDS=$(SOAK_SECONDS) \
	  $(CARGO) test --package syngate --test keep_soak -- --nocapture --test-threads 2 2>&1 | tee $(LONG)/soak-keep.txt

# A fuzzer ends after RUNS executions or SECONDS, whichever comes first. 0 means no limit. See
# tests/fuzz/README.md.
RUNS ?= 1000000
SECONDS ?= 60
fuzz:
	@tests/ci/install-packages $(BUILD_PACKAGES) $(FUZZ_PACKAGES)
	RUNS=$(RUNS) MAX_SECONDS=$(SECONDS) tests/ci/fuzz $(TARGET)

valgrind:
	@tests/ci/install-packages $(BUILD_PACKAGES) valgrind
	tests/ci/valgrind

mutants:
	@tests/ci/install-packages $(BUILD_PACKAGES)
	tests/ci/mutants $(FILES)

deny:
	tests/ci/deny

# `make test` plays a few thousand. target/seeds/next has the first seed that was not played.
SEEDS ?= 1000000
simulate:
	@tests/ci/install-packages $(BUILD_PACKAGES)
	tests/ci/simulate $(SEEDS)

figures: test-packages
	$(CARGO) build --release
	SYNGATE_TEST_BINARY=$(CURDIR)/target/release/syngate SYNGATE_FLOOD=100000 \
	  $(CARGO) test --package syngate --test hold --test keep --test rooms --test room_world -- costs fifty backlog --include-ignored --nocapture --test-threads 1

# See tests/ci/kernel-fetch for what these are, tests/ci/kernel-tests for how TESTS are named. Of 6.12.85,
# only what it refuses is of interest.
KERNELS := 5.10 6.1 6.12 6.12.85=auto newest
# What --syn park and --syn handover need of the kernel, and what becomes of their clients.
ROOMS := handover park parking passes room_kills room_moved room_world rooms keep keep_any keep_kills keep_follows
TESTS := backends check commands contract divert edges firewall guarantees hold life readiness \
  privilege::it_refuses privilege::a_caller privilege::a_user redirect rules services standby auto $(ROOMS)
CORE := guarantees::a_panic guarantees::foreign guarantees::hung guarantees::killed_with \
  guarantees::stopped rules contract::a_caller_without hold::clients hold::the_queue hold::killed_while \
  redirect::new_connections redirect::established redirect::killed \
  divert::new_connections divert::established divert::killed_at \
  auto::the_kernel_decides park::who_comes park::commands_own park::nothing_is_left_of_a_run handover::who_comes_in \
  park::as_many park::a_listener_that_stays
test-kernels: test-packages
	@tests/ci/install-packages $(KERNEL_PACKAGES)
	$(CARGO) build --workspace --tests
	TESTS="$(TESTS)" tests/ci/kernel-tests $(KERNELS)

test-kernel:
	@$(MAKE) --no-print-directory test-kernels KERNELS=6.1 TESTS="$(CORE)"

# Not in CI, which has no time for it.
test-arm64: test-packages
	@tests/ci/install-packages $(KERNEL_PACKAGES) $(ARM64_PACKAGES)
	tests/ci/kernel-fetch 6.1-arm64
	tests/ci/cross arm64 build --package syngate
	tests/ci/kernel-run target/kernels/6.1-arm64 tests/ci/arm64-restarts target/cross/aarch64-unknown-linux-gnu/debug/syngate
	TESTS="$(CORE)" tests/ci/kernel-tests 6.1-arm64

# The kernel is this machine's, so what a kernel does is no part of it.
ARCHITECTURES := arm64 armhf i386 s390x
test-architectures:
	@tests/ci/install-packages $(BUILD_PACKAGES) $(ARCHITECTURE_PACKAGES)
	TESTS="$(if $(filter file,$(origin TESTS)),,$(TESTS))" tests/ci/architectures $(ARCHITECTURES)

kernel-features:
	@tests/ci/install-packages $(BUILD_PACKAGES) $(DEMO_PACKAGES) $(KERNEL_PACKAGES)
	$(CARGO) build
	tests/ci/kernel-features $(if $(filter file,$(origin KERNELS)),5.10 6.1 6.12 newest,$(KERNELS))

# PARTS: units gate keep, all unless it says otherwise.
test-systemd: test-packages
	@tests/ci/install-packages $(KERNEL_PACKAGES)
	$(CARGO) build --workspace
	tests/ci/kernel-fetch 6.1
	tests/ci/test-systemd target/kernels/6.1 $(PARTS)

test-ipvs: test-packages
	@tests/ci/install-packages $(KERNEL_PACKAGES) ipvsadm
	$(CARGO) build --workspace
	tests/ci/kernel-fetch 6.1
	tests/ci/test-ipvs target/kernels/6.1

completions:
	SYNGATE_COMPLETIONS=write $(CARGO) test --package syngate --test completions as_generated

# The list of messages and docs/messages.md, as they are now: read the diff.
messages:
	SYNGATE_MESSAGES=write $(CARGO) test --package syngate --test messages

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	tests/ci/deny --passed

# Debian's, unpacked into target/rust and never installed.
oldest-rust:
	@tests/ci/install-packages $(BUILD_PACKAGES)
	tests/ci/oldest-rust

MAN = $(DESTDIR)$(PREFIX)/share/man
# What distributions have elsewhere. UNITS= installs no units.
SBIN ?= $(PREFIX)/sbin
UNITS ?= $(PREFIX)/lib/systemd/system
DOC ?= $(PREFIX)/share/doc/syngate

# Installs what was built, and builds nothing: root need not have cargo.
install:
	@[ -x $(BUILT) ] || { echo "nothing is built yet: run make first" >&2; exit 1; }
	install -D -m 755 $(BUILT) $(DESTDIR)$(SBIN)/syngate
	install -D -m 644 -t $(MAN)/man5 man/*.5
	install -D -m 644 -t $(MAN)/man7 man/*.7
	install -D -m 644 -t $(MAN)/man8 man/*.8
	install -D -m 644 contrib/completions/syngate.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/syngate
	install -D -m 644 contrib/completions/_syngate $(DESTDIR)$(ZSH_FUNCTIONS)/_syngate
	install -D -m 644 contrib/completions/syngate.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/syngate.fish
	[ -z "$(UNITS)" ] || install -D -m 644 -t $(DESTDIR)$(UNITS) contrib/systemd/*.service

# For packages: README, docs, and contrib, with example profiles.
install-doc:
	contrib/packages/documents $(DESTDIR)$(DOC)

uninstall:
	for page in man/*.[578]; do rm -f "$(MAN)/man$${page##*.}/$${page#man/}"; done
	[ -z "$(UNITS)" ] || for unit in contrib/systemd/*.service; do rm -f "$(DESTDIR)$(UNITS)/$${unit##*/}"; done
	rm -f $(DESTDIR)$(SBIN)/syngate \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions/syngate \
	  $(DESTDIR)$(ZSH_FUNCTIONS)/_syngate \
	  $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/syngate.fish

# See contrib/debian. Only `all` needs cargo. Nothing here needs root.
deb: all
	@tests/ci/install-packages $(DEB_PACKAGES)
	contrib/debian/build

# Some minutes each, as root; nothing of this machine is changed but for the packages that it needs.
SUITES ?= bookworm trixie forky
test-deb: deb
	@tests/ci/install-packages $(DEB_TEST_PACKAGES)
	set -e; for suite in $(SUITES); do tests/ci/test-deb $$suite; done

# What zig links, and Debian's libraries: nothing of this machine's own is in it.
dist:
	@tests/ci/install-packages $(DIST_PACKAGES)
	tests/ci/dist

# See contrib/rpm.
rpm: dist
	@tests/ci/install-packages $(RPM_PACKAGES)
	contrib/rpm/build

# As root.
test-rpm: dist
	@tests/ci/install-packages $(RPM_TEST_PACKAGES)
	tests/ci/test-rpm

# As root.
test-arch: all
	@tests/ci/install-packages $(ARCH_TEST_PACKAGES)
	tests/ci/test-arch

crate:
	@tests/ci/install-packages $(BUILD_PACKAGES)
	contrib/packages/crate

address:
	contrib/packages/address $(ADDRESS)

# A quarter of an hour, as root; the chroots stay in target/distributions.
distributions: dist
	@tests/ci/install-packages $(DIST_PACKAGES)
	$(CARGO) build --release --package testkit
	tests/ci/distributions

clean:
	$(CARGO) clean
