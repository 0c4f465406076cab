# Needs make and Python 3.11 to 3.14 with venv; every target sets up what it needs in .venv, once.
#   PYTHON=...  which interpreter (default: .venv's, or the newest on PATH)
#   ARGS=...    more arguments, for test (pytest), demo (run.py) and lock
VENV := .venv
ARGS :=

.DEFAULT_GOAL := help
.PHONY: help demo test quick adversary packages coverage lint check manifests checkov image docs lock matrix clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

# HOST counts only on make's own command line: some shells and build tools export a HOST that is no address to serve on.
demo:  ## check and serve with the embedded model, no keys, no network (PORT=8010 HOST=127.0.0.1)
	@sh .ci/setup $(VENV) requirements.txt
	@exec $(VENV)/bin/python run.py --demo $${PORT:+--port "$$PORT"} $(if $(filter command,$(origin HOST)),--host "$$HOST") $(ARGS)

test:  ## the project's own tests but for the next ones, as whoever calls it, root or not (ARGS="-k port" for some)
	@sh .ci/setup $(VENV) requirements-dev.txt
	@exec $(VENV)/bin/python -m pytest -n 4 --dist worksteal $(ARGS)

quick:  ## those of the tests that start no process, in a minute
	@sh .ci/setup $(VENV) requirements-dev.txt
	@exec $(VENV)/bin/python -m pytest -n auto --dist worksteal -q -m "not slow" --ignore tests/e2e $(ARGS)

# Two fifths of the processor time of all tests.
adversary:  ## what reviewers have tried to break, in further cases
	@sh .ci/setup $(VENV) requirements-dev.txt
	@exec $(VENV)/bin/python -m pytest -n 4 --dist worksteal tests/adversary $(ARGS)

# Those that ask the package index: make test leaves them out.
packages:  ## the wheel, built and tried beside other people's packages (needs uv and the network)
	@sh .ci/setup $(VENV) requirements-dev.txt
	@exec $(VENV)/bin/python -m pytest -n 2 -m packages tests/packages $(ARGS)

# Twice as slow: the processes that the tests start are measured as well.
coverage:  ## the same with coverage, which must be above 90 %
	@sh .ci/setup $(VENV) requirements-dev.txt
	@rm -f .coverage .coverage.*
	@$(VENV)/bin/python -m coverage run -m pytest -n 3 --dist worksteal $(ARGS)
	@$(VENV)/bin/python -m coverage combine -q
	@exec $(VENV)/bin/python -m coverage report

lint:  ## ruff (rules and format), mypy, and who imports whom
	@sh .ci/setup $(VENV) requirements-dev.txt
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check .
	@$(VENV)/bin/python -m mypy
	@PYTHONPATH=. $(VENV)/bin/lint-imports --no-cache

check: lint test  ## both

manifests:  ## the Dockerfile and deploy/: hadolint, compose, Kubernetes' schemas, Prometheus' rules
	@bash .ci/deploy

checkov:  ## the same by checkov's rules (installs a hundred packages; a job of its own in CI)
	@sh .ci/setup $(VENV) requirements-dev.txt
	@bash .ci/deploy checkov

image:  ## the image, built and run with podman (as root; minutes, a job of its own in CI)
	@sh .ci/setup $(VENV) requirements-dev.txt
	@bash .ci/image $(ARGS)

docs:  ## the site of docs/, in site/index.html; a link or an anchor that leads nowhere is an error
	@sh .ci/setup $(VENV) requirements-dev.txt
	@$(VENV)/bin/python -m zensical build --clean --strict

lock:  ## write requirements*.txt from pyproject.toml (ARGS=--upgrade for newer releases)
	@sh .ci/setup $(VENV) requirements.txt
	@$(VENV)/bin/python .ci/lock $(ARGS)

matrix:  ## the tests on every supported Python of this machine
	@.ci/matrix $(ARGS)

clean:  ## remove environments, caches and coverage; .preflight/ (reports, history, sessions) stays
	@rm -rf .venv .venv-matrix .venv-deploy .venv-checkov .cache site .mypy_cache .ruff_cache .pytest_cache .coverage .coverage.* coverage.xml htmlcov
	@find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
