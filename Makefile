# Every target makes what it needs and nothing twice. Needs python3 (3.11 or newer) with venv, and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: demo test lint results docs clean

$(INSTALLED): pyproject.toml constraints.txt docs/requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --requirement docs/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps adv-lib
	-$(BIN)/advdpnp doctor --mend
	touch $@

demo: $(INSTALLED)
	$(BIN)/advdpnp demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

# All tables, figures and pages of results/, from the verdicts there; git keeps the tables and a picture or two of each run.
results: $(INSTALLED)
	for folder in cifar10 cifar10-public cifar10-resnet18-w16 cifar10-resnet18-w16-10000 cifar10-tiny-resnet cifar10-transfer ed-wta; do $(BIN)/advdpnp leaderboard results/$$folder || exit; done
	$(BIN)/advdpnp leaderboard results/cifar10 results/cifar10-public results/cifar10-tiny-resnet --out results/all --compare robustbench
	$(BIN)/python -m benchmarks.claims
	$(BIN)/python -m benchmarks.price

# The documentation in site/, from docs/ and the registries; opens without network.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo site/index.html

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

clean:
	rm -rf .venv build dist demo site .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
