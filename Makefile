# `make demo` and `make test` set up everything that they need; neither wants anything but git, make and python3-venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --use-pep517 --no-warn-script-location
TESTS ?= tests
JOBS ?= 2
IMAGE ?=
FLAVOUR ?= minimal
# The community fund and its rules: whole networks, and the parts whose tests' names tell it.
COMMUNITY_WORDS := airdrop bond collecting community cosign eligibility facts follow fund governance guardian manifest \
	multisig notes rule settlement share
# What belongs to it and takes its time: `make test-machines` and `make test` have it, `make test-os` leaves it out.
SLOW_MACHINES := configuration first_boot flopcoin flopcoin_at_home readme_install repository trouble two_machines
# After the others, for machines that boot beside network tests would make those wait. What all of them stand on is made
# first. A booted machine waits half of its time, so four go side by side, those with the longest tests first
# (tests/os/conftest.py); the image, under emulation, wants all processors for itself.
OS_TESTS = $(BIN)/python -m tests.os.layers && $(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder \
	tests/os --ignore-glob='*/test_image*'
# Status 5: nothing of it is to be run, because nothing that the image is made of has changed.
IMAGE_TESTS = { $(BIN)/python -m pytest tests/os --ignore-glob='*/test_[!i]*' || test $$? -eq 5; }
COMMUNITY := tests/community $(filter-out tests/community/%,$(sort \
	$(wildcard $(foreach word,$(COMMUNITY_WORDS),tests/*/test_*$(word)*.py))))

.PHONY: demo deb repository iso test test-os test-machines test-iso test-community test-chain bench lint generate lock clean help

help:
	@echo "make demo [IMAGE=my.png]  the first paid call, on a private trial network; no root needed"
	@echo "make test [TESTS=path]    all tests; as root it installs the Debian packages that they need"
	@echo "make test-os              the packages installed, booted, upgraded, purged; as root"
	@echo "make test-machines        all tests on booted machines, also of trouble, two machines, a Core beside; as root"
	@echo "make iso [FLAVOUR=minimal] the live image, in build/; as root, or with subordinate ids"
	@echo "make test-iso             builds the image, starts it in QEMU and checks it from inside; as root"
	@echo "make deb                  the Debian packages, in build/deb; as root, or with subordinate ids"
	@echo "make repository KEY=file  a signed apt repository of them, in build/repository"
	@echo "make test-community       those of the community fund and of voting alone; within ten minutes"
	@echo "make test-chain           the end-to-end tests on litecoind, and on DUX_COIND=/path/to/flopcoind"
	@echo "make bench                the benchmarks"
	@echo "make lint                 ruff, mypy and the import contracts (a part of make test)"
	@echo "make generate             what is made from the code: reference, settings, states, man page, etc-duxnet, dux-ctl's methods"
	@echo "make lock                 the lock files, anew"
	@echo "make clean                removes the environment and all caches"

# What runs: exactly the locked versions, each file checked against its hash.
$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml
	@echo "setting up the Python environment (once; downloads about 60 MB)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r requirements-build.lock
	@$(PIP) --require-hashes --no-build-isolation -r requirements.lock
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo "adding the test tools"
	@$(PIP) --require-hashes --no-build-isolation -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.runtime
	@$(BIN)/dux-devnet demo $(if $(IMAGE),--image "$(IMAGE)")

test: $(VENV)/.dev
	@$(PYTHON) build_script/system_packages.py
ifeq ($(TESTS),tests)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --ignore=tests/os tests; others=$$?; \
	$(OS_TESTS); machines=$$?; $(IMAGE_TESTS); image=$$?; \
	test $$others -eq 0 -a $$machines -eq 0 -a $$image -eq 0
else
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)
endif

test-os: $(VENV)/.dev
	@$(PYTHON) build_script/system_packages.py
	@$(OS_TESTS) $(SLOW_MACHINES:%=--ignore=tests/os/test_%.py)

test-machines: $(VENV)/.dev
	@$(PYTHON) build_script/system_packages.py
	@$(OS_TESTS)

# Python's standard library is all that this needs.
iso:
	@build_script/build_duxos.sh --flavour $(FLAVOUR)

test-iso: $(VENV)/.dev
	@$(PYTHON) build_script/system_packages.py
	@$(BIN)/python -m pytest -s tests/os/test_image.py

# Neither needs more than Python's standard library.
deb:
	@$(PYTHON) build_script/deb.py

repository:
	@test -n "$(KEY)" || { echo "which key? now: make repository KEY=secret-key.asc (gpg --export-secret-keys)"; exit 2; }
	@$(PYTHON) build_script/repository.py --key "$(KEY)"

test-community: $(VENV)/.dev
	@$(PYTHON) build_script/system_packages.py
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(COMMUNITY)

test-chain: $(VENV)/.dev
	@$(PYTHON) build_script/system_packages.py
	@$(BIN)/python -m pytest -s tests/chain/test_real_core.py tests/community/test_fund_pays_itself_out.py

bench: $(VENV)/.dev
	@$(BIN)/python -m benchmarks

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

generate: $(VENV)/.dev
	@$(BIN)/python build_script/generate.py

lock:
	@$(PYTHON) build_script/make_lock.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
