# Two commands set everything up on a fresh machine: `make demo` and `make test`. Needs Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One thread per process: results do not depend on the machine's load, and small tensors are faster so.
export OMP_NUM_THREADS ?= 1

.PHONY: docs docs-serve install constraints demo test e2e mutants check format dist dist-check wheelhouse sbom soak bench bench-check bench-tables bench-gpu clean

install: $(READY)

# Each file that pip downloads must have a hash of constraints.txt, but for torch: its builds for CPU and CUDA differ, and
# so do their hashes. TORCH=cpu or TORCH=cuda takes that build from PyTorch's own index; without it pip's index decides,
# which on Linux is mostly the CUDA build. CUDA names the release for TORCH=cuda, such as cu126.
TORCH_VERSION := 2.13.0
CUDA ?= cu130
TORCH_INDEX_cpu := https://download.pytorch.org/whl/cpu
TORCH_INDEX_cuda = https://download.pytorch.org/whl/$(CUDA)
ifdef TORCH
  ifeq ($(TORCH_INDEX_$(TORCH)),)
    $(error TORCH=$(TORCH): expected cpu or cuda)
  endif
  TORCH_FROM := --index-url $(TORCH_INDEX_$(TORCH))
endif
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --no-deps --require-hashes --requirement constraints.txt
	$(BIN)/python $(PIP_INSTALL) $(TORCH_FROM) torch==$(TORCH_VERSION)
	$(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $(READY)

# Brings constraints.txt up to date with pyproject.toml; versions that still fit stay. `make constraints NEWER=--upgrade`
# takes the newest, `NEWER='--upgrade-package flwr'` that of one package.
NEWER ?=
constraints: $(READY)
	$(BIN)/uv pip compile pyproject.toml --extra dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	  --generate-hashes --no-emit-package torch --no-annotate --custom-compile-command 'make constraints' \
	  --quiet --output-file constraints.txt $(NEWER)

# Five phantom hospitals with few patients each: first each alone and all together, without privacy, then the default mode.
# Where FEDKT3D_OPENKBP names the data set, also a few OpenKBP patients. Settings: docs/results/demo.md.
demo: $(READY)
	@mkdir -p out
	@echo "Part 1: five phantom hospitals with six training patients each, alone and together, without privacy"
	$(BIN)/simulate run out=out/demo name=demo data.sites=5 data.patients=8 data.root=out/demo_data privacy.mode=none \
	  model.prior=bundled rounds.count=4 rounds.evaluate_every=4 train.local_steps=4 \
	  study='[federated,local]' > out/demo.txt
	@echo; $(BIN)/python -m simulations.reports.alone_or_together out/demo
	@echo "More scores, curves and dose pictures: out/demo.txt names them."
	@echo; echo "Part 2: the same hospitals together in the default mode, with patient-level privacy at epsilon 8"
	$(BIN)/simulate run out=out/demo_private name=demo_private data.sites=5 data.patients=8 data.root=out/demo_data
	@if [ -n "$$FEDKT3D_OPENKBP" ]; then \
	  echo; echo "Part 3: OpenKBP, four hospitals with six training patients each, without privacy"; \
	  $(BIN)/simulate run out=out/demo_openkbp name=demo_openkbp data=openkbp data.root="$$FEDKT3D_OPENKBP" privacy.mode=none \
	    model.network=transformer model.base=phantom model.adapter=base train.base_lr=0.004 \
	    rounds.count=4 rounds.evaluate_every=4 study='[federated,local]' \
	    data.train_per_site=6 data.validation_per_site=3 > out/demo_openkbp.txt && \
	  echo && $(BIN)/python -m simulations.reports.alone_or_together out/demo_openkbp; \
	fi

test: $(READY)
	$(BIN)/python -m pytest -m 'not e2e' -n 2 --dist loadfile

# Real processes: the walk-through of docs/deploy.md, strangers and hostile messages, kills, cuts and restarts. Two files
# at a time: most of a test is waiting.
e2e: $(READY)
	$(BIN)/python -m pytest -m e2e -n 2 --dist loadfile

# Deliberate faults in the privacy code: each must make its named test fail (tests/mutants/mutants.toml). Not in every
# CI run.
mutants: $(READY)
	$(BIN)/python -m tests.mutants.gate

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The sdist and the wheel, in dist/.
dist: $(READY)
	rm -rf dist build
	$(BIN)/python -m build

# The wheel alone, in an empty environment and an empty folder outside the repository: it must bring all that it needs.
# Versions without hashes: pip would ask for a hash of the wheel that was just built.
dist-check: dist
	set -e; empty=$$(mktemp -d); trap 'rm -rf "$$empty"' EXIT; \
	$(PYTHON) -m venv "$$empty/venv"; \
	sed -n 's/^\([^ #]*==[^ ]*\).*/\1/p' constraints.txt > "$$empty/versions.txt"; \
	"$$empty/venv/bin/python" $(PIP_INSTALL) --constraint "$$empty/versions.txt" $(TORCH_FROM) torch==$(TORCH_VERSION); \
	"$$empty/venv/bin/python" $(PIP_INSTALL) --constraint "$$empty/versions.txt" dist/*.whl; \
	cd "$$empty"; venv/bin/client --help > client.txt; venv/bin/server --help > server.txt; \
	venv/bin/simulate run out=out name=alone data.sites=2 data.patients=4 data.root=data privacy.mode=none \
	  rounds.count=1 train.local_steps=1

# For machines without an index: all wheels in dist/wheelhouse with hashes (docs/deploy.md, "Without an index"). KEY=FILE
# signs them; TORCH=cpu as above. What torch's CUDA build needs besides is not pinned, so it cannot be taken along.
KEY ?=
wheelhouse: $(READY)
	$(BIN)/python deploy/wheelhouse.py dist/wheelhouse --torch $(TORCH_VERSION) \
	  $(if $(TORCH),--torch-index $(TORCH_INDEX_$(TORCH))) $(if $(KEY),--key $(KEY))

# All that constraints.txt pins, with licences and hashes, as CycloneDX JSON: dist/sbom.json.
sbom: $(READY)
	$(BIN)/python deploy/sbom.py dist/sbom.json --torch $(TORCH_VERSION)

# A coordinator and five sites in real processes, 500 rounds, seeded faults; hours. docs/results/soak.md.
SOAK_ROUNDS ?= 500
SOAK_SEED ?= 0
soak: $(READY)
	$(BIN)/python -m simulations.soak.run --rounds $(SOAK_ROUNDS) --seed $(SOAK_SEED) --out out/soak

# The documents as a site in out/site; a link that leads nowhere fails. docs-serve shows it while it is being written.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The ratios of small benchmarks, into docs/results/benchmarks.json and .md; bench-check compares with the last ones there.
bench: $(READY)
	$(BIN)/python -m simulations.ratios.collect

bench-check: $(READY)
	$(BIN)/python -m simulations.ratios.collect --check

# Every benchmark at its full size, as tables.
bench-tables: $(READY)
	$(BIN)/python -m simulations.benchmarks.sites --sites 1000 --rounds 5
	$(BIN)/python -m simulations.benchmarks.sites --sites 10000 --tree 100 --processes --workers 2
	$(BIN)/python -m simulations.benchmarks.deployed_round
	$(BIN)/python -m simulations.benchmarks.step_cost
	$(BIN)/python -m simulations.benchmarks.private_step
	$(BIN)/python -m simulations.benchmarks.pyramid_cost
	$(BIN)/python -m simulations.benchmarks.resolution_loss
	$(BIN)/python -m simulations.benchmarks.secagg
	$(BIN)/python -m simulations.benchmarks.round_overhead --masks
	$(BIN)/python -m simulations.benchmarks.round_overhead --slow 50
	$(BIN)/python -m simulations.benchmarks.site_check
	$(BIN)/python -m simulations.benchmarks.dicom_reading
	$(BIN)/python -m simulations.benchmarks.dicom_damage --files 200
	$(BIN)/python -m simulations.benchmarks.scorecard_candidates

# Needs an NVIDIA GPU and a torch built for it; refuses otherwise.
bench-gpu: $(READY)
	$(BIN)/python -m simulations.benchmarks.gpu_forward

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
