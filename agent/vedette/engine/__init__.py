"""The only place that knows a TFLite runtime: which one, its threads and delegates, and whether a model works on it.

::

    runtime = load_runtime("auto")
    engine = TfliteEngine(path, runtime, threads=1)
    inputs, outputs = engine.allocate()
    engine.invoke(inputs, outputs)
"""

from .base import Engine, EngineDescription
from .probe import probe
from .runtime import RUNTIMES, Runtime, load_runtime
from .selftest import SelfTest, run_self_test
from .tflite import TfliteEngine

__all__ = [
    "RUNTIMES",
    "Engine",
    "EngineDescription",
    "Runtime",
    "SelfTest",
    "TfliteEngine",
    "load_runtime",
    "probe",
    "run_self_test",
]
