# Every target sets up .venv by itself the first time, the offline model included.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: course test test-oldest bench schemas lab clean help
.DEFAULT_GOAL := help

course: .venv/ready  ## execute every notebook in order; pages in build/course/
	COURSE_PROFILE=$${COURSE_PROFILE:-class} $(BIN)/python execute_notebooks.py

test: .venv/ready  ## lint, types, unit tests, and every notebook in profile ci
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/pytest -n 2
	COURSE_PROFILE=ci $(BIN)/pytest --nbmake notebooks

test-oldest: .venv-oldest/ready  ## unit tests with every dependency at its lower bound
	@# Old releases call what the newest ones of other libraries deprecate; that is not ours to mend.
	.venv-oldest/bin/pytest -n 2 -W ignore::DeprecationWarning -W ignore::FutureWarning

bench: .venv/ready  ## measure fine-tuning against other tools; see benchmarks/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/python benchmarks/training.py

schemas: .venv/ready  ## write configs/schemas/ again, after a change of a config model
	for name in audit dataprep training evaluation benchmark; do \
	  $(BIN)/python -m utilities.$$name --schema > configs/schemas/$$name.json || exit 1; \
	done

lab: .venv/ready  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

clean:  ## remove what was built; keeps .venv and the model cache
	rm -rf .venv-oldest build dist runs notebooks/runs
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The stamp appears last, so a set-up that was interrupted is done again.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m utilities.models fetch
	@touch $@

# uv finds the lowest versions that fit together. torch is the one of constraints.txt: its older
# releases bring CUDA libraries of several GB along where no build for the CPU is at hand.
.venv-oldest/ready: pyproject.toml constraints.txt
	python3.11 -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	grep '^torch==' constraints.txt > .venv-oldest/torch.txt
	.venv-oldest/bin/uv pip compile --quiet --no-annotate --no-header --python-version 3.11 \
		--resolution lowest-direct --constraint .venv-oldest/torch.txt \
		--extra dev pyproject.toml --output-file .venv-oldest/constraints.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check \
		-c .venv-oldest/constraints.txt -e '.[dev]'
	.venv-oldest/bin/python -m utilities.models fetch
	@touch $@
