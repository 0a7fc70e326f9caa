# Each line is a command you could type yourself. `make` alone lists what there is.
PYTHON ?= python3
BIN    := $(if $(filter Windows_NT,$(OS)),.venv/Scripts,.venv/bin)
DATA   ?= data
RUN    ?= runs/compact
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo test style fuzz app explore lab docs readme bench train-compact clean install install-all

help:  ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install  ## analyse the bundled sample scans and show where the results are
	@$(BIN)/brain_tumor demo

test: install-all  ## run the tests in the notebooks, then pytest; one chapter: CHAPTER=02_io/dicom
ifdef CHAPTER
	$(BIN)/python tools/test_notebooks.py $(CHAPTER)
else
	@status=0; $(BIN)/python tools/test_notebooks.py || status=$$?; \
	NOTEBOOK_TESTS=$$status $(BIN)/python -m pytest -n 2 --dist loadfile
endif

style: install-all  ## format notebooks, tests, tools and bench, and name what ruff cannot mend
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

fuzz: install-all  ## damage files in tens of thousands, other ones each time, and keep the counts in runs/fuzz
	FUZZ_EXAMPLES=5 FUZZ_SEED=$$(date +%s) FUZZ_RECORD=runs/fuzz/run.json $(BIN)/python -m pytest -q tests/test_fuzz.py
	$(BIN)/python tools/fuzz_atheris.py --record runs/fuzz/run.json

# where the servers find their settings: uploads of 200 MB, and a page that fetches nothing from elsewhere
app explore lab: export JUPYTER_PATH := $(CURDIR)/tools/jupyter
app explore lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/tools/jupyter

app: install-all  ## open the page: upload, predict, correct, take home
	$(BIN)/voila nbs/app.ipynb

explore: install-all  ## open the recorded runs as a page: confusion, thresholds, maps, curves
	$(BIN)/voila nbs/11_app/explore.ipynb

lab: install-all  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir=nbs --LabApp.default_url=/lab/tree/index.ipynb

docs: install-all  ## build the site into _docs and check its links
	$(BIN)/python tools/build_docs.py
	$(BIN)/python tools/check_links.py _docs

readme: install-all  ## write README.md from nbs/index.ipynb
	$(BIN)/python tools/build_readme.py

bench: install-all  ## measure speed, as ratios in one run
	$(BIN)/python bench/run.py
	$(BIN)/python bench/pipeline.py
	$(BIN)/python bench/app.py
	$(BIN)/python bench/decoder.py
	$(BIN)/python bench/scale.py

train-compact: install-all  ## train the network that ships: make train-compact DATA=folder RUN=folder
	$(BIN)/brain_tumor train compact --data $(DATA) --out $(RUN)

clean:  ## remove what was made from the sources; the environment stays
	rm -rf _docs _docs_src _proc build dist *.egg-info .pytest_cache

install:
	@$(PYTHON) tools/install.py

install-all:
	@$(PYTHON) tools/install.py workbook dev
