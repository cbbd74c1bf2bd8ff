# Two commands do everything: `sudo make demo` and `sudo make test`. Both install what they need first.

PYTHON ?= /usr/bin/python3
BIN := .venv/bin
DIST ?= dist

RUN_PACKAGES := etcd-server iproute2 util-linux python3 python3-venv
SUITES := bookworm trixie
BENCH_PACKAGES := $(RUN_PACKAGES) bird2 containernetworking-plugins etcd-client frr ethtool gcc iperf3 iptables iputils-ping libc6-dev nftables procps
TEST_PACKAGES := $(RUN_PACKAGES) bird2 busybox-static conmon containerd containernetworking-plugins etcd-client ethtool fish frr gcc gobgpd groff-base iperf3 ipset iptables iputils-ping kmod libc6-dev mmdebstrap nftables openssl podman procps prometheus ruby runc systemd-container user-mode-linux zsh

.PHONY: bench chaos demo junk law rack smoke test test-on test-packages ready check format lock wheel wheels .venv/wheels deb share clean help

help:
	@echo "sudo make demo    three nodes on this machine: pods ping through routes the agents exchanged"
	@echo "sudo make test    everything: style, types, layers, tests, IPIP under User-Mode-Linux"
	@echo "sudo make test-on SUITE=trixie   the tests on Debian 13, in a root of its own"
	@echo "sudo make bench   ours beside BIRD, FRR and the reference plugins, in one run; BENCH='--only feed' chooses"
	@echo "sudo make chaos SECONDS=1800   random faults on a lab until something does not hold; SEED=n replays"
	@echo "sudo make junk ROUNDS=200   junk in one field of every kind of stored value, on a lab; SEED=n replays"
	@echo "sudo make law ROUNDS=300    one thing breaks on a lab: no ping is lost, or a trouble names it; SEED=n replays"
	@echo "sudo make rack    cables, switches and agents of a rack fail: what each costs in pings, held to its bound"
	@echo "sudo make smoke   virtual machines, without KVM: all modes, a reboot, an upgrade, a drain, a removal"
	@echo "     make check   style, types and layers alone"
	@echo "     make format  format the code"
	@echo "     make wheel   dist/tortie-*.whl; make wheels adds what it needs, for machines without a package index"
	@echo "     make deb     dist/tortie_*.deb, with all it needs in it"
	@echo "     make share   the manual page and the shells' completions, out of the command line's own parser"
	@echo "     make lock    pin the dependencies anew"

demo: .venv/ready
	@.ci/apt-install $(RUN_PACKAGES)
	@$(BIN)/tortie lab demo

test: ready
	@.ci/apt-install $(sort $(TEST_PACKAGES) $(BENCH_PACKAGES))
	@$(BIN)/python -m tests.fixtures.debian_root $(SUITES)
	@$(BIN)/python -m tests.suite --compile & $(MAKE) --no-print-directory check && wait
	@$(BIN)/python -m tests.suite $(SUITE_FLAGS)

# The same tests on another Debian (docs/systems.md); the network is needed once for each suite and lock.
test-on:
	@.ci/apt-install mmdebstrap
	@$(PYTHON) -m tests.on $(SUITE) --packages "$(sort $(TEST_PACKAGES) $(BENCH_PACKAGES))" \
	  -- $(BIN)/python -m tests.suite $(SUITE_FLAGS)

test-packages:
	@echo $(sort $(TEST_PACKAGES) $(BENCH_PACKAGES))

# All that needs the network comes first: the suite has none.
ready: .venv/ready .venv/wheels

bench: .venv/ready
	@.ci/apt-install $(BENCH_PACKAGES)
	@$(BIN)/python -m bench $(BENCH)

chaos: .venv/ready
	@.ci/apt-install $(RUN_PACKAGES) etcd-client nftables
	@$(BIN)/python -m tests.chaos --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED)) $(if $(MODE),--mode $(MODE))

junk: .venv/ready
	@.ci/apt-install $(RUN_PACKAGES)
	@$(BIN)/python -m tests.chaos.junk_fields --rounds $(or $(ROUNDS),200) $(if $(SEED),--seed $(SEED))

law: .venv/ready
	@.ci/apt-install $(RUN_PACKAGES)
	@$(BIN)/python -m tests.chaos.law --rounds $(or $(ROUNDS),300) $(if $(SEED),--seed $(SEED))

# QEMU without KVM, in namespaces of its own, which end with it; vagrant/README.md says how to do it with KVM.
rack: .venv/ready
	@.ci/apt-install $(TEST_PACKAGES)
	@TORTIE_RACK_ALONE=1 $(BIN)/python -m pytest -q -p no:cacheprovider -s tests/lab/rack/test_rack_failures.py

smoke: deb
	@vagrant/build-box
	@vagrant/without-kvm vagrant/smoke $(SMOKE); status=$$?; vagrant/without-kvm --end; exit $$status

check: .venv/ready
	@$(BIN)/ruff format --check -q . || { echo "run: make format"; exit 1; }
	@$(BIN)/ruff check -q .
	@$(BIN)/mypy
	@said=$$($(BIN)/lint-imports --no-cache) || { echo "$$said"; exit 1; }

format: .venv/ready
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

.venv/ready: pyproject.toml requirements.lock
	@.ci/apt-install python3-venv
	@.ci/venv $(PYTHON)

# What the program needs, for every Python that we support; the network is needed once for each lock.
.venv/wheels: .venv/ready
	@.ci/online $(BIN)/python packaging/dependencies.py requirements.lock .venv/wheels

wheel: .venv/ready
	@mkdir -p $(DIST) && rm -f $(DIST)/tortie-*.whl
	@$(BIN)/python -m hatchling build -t wheel -d $(DIST)

# The wheel, and beside it everything it needs: a machine without a package index installs from dist.
wheels: .venv/wheels
	@mkdir -p $(DIST) && rm -f $(DIST)/*.whl && cp .venv/wheels/*.whl $(DIST)
	@$(MAKE) --no-print-directory wheel

share: .venv/ready
	@$(BIN)/python packaging/share.py

deb: wheels
	@$(PYTHON) packaging/deb.py --wheels $(DIST)

lock: .venv/ready
	@$(BIN)/pip-compile -q --extra dev --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --no-emit-trusted-host --no-header --allow-unsafe --strip-extras -o requirements.lock pyproject.toml

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
