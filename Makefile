# make book    build the book into _build/html (warnings are errors)
# make test    run the tests
# make lint    ruff and the notebook check;  make format mends what they find
# make bench   print the benchmarks: make bench BENCH='--device cuda --batch 256'
# make clean   remove what book, test and lint wrote (not .venv, not runs/)
#
# All share one .venv, made on first use and remade when the lock or pyproject.toml changes.
# Another interpreter: make PYTHON=/path/to/python3.12 book

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# The first interpreter that runs, is 3.11 or 3.12, and can make a virtual environment.
USABLE := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c '$(USABLE)' 2>/dev/null && echo $$p && break; done)

NOTEBOOKS := notebooks/*.ipynb
# Outputs, and what papermill and editors add. Tags and the book's metadata stay, and so do ids.
EDITORS := codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version
STRIP := $(BIN)/nbstripout --keep-id --drop-tagged-cells injected-parameters --extra-keys \
	"cell.metadata.papermill metadata.papermill $(EDITORS:%=metadata.language_info.%)"

.PHONY: book test lint format bench clean
.DELETE_ON_ERROR:

book: $(STAMP)
	$(BIN)/jupyter-book build book/ --all -W --keep-going -n

# Two processes of one thread each: on two cores twice as fast as one process of two threads.
test: $(STAMP)
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(STRIP) --verify $(NOTEBOOKS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(STRIP) $(NOTEBOOKS)

bench: $(STAMP)
	$(BIN)/python -m ppap_book.bench $(BENCH)

clean:
	rm -rf _build .pytest_cache .hypothesis .ruff_cache
	find ppap_lib tests notebooks book -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or 3.12 found: make PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
