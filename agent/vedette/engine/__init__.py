"""The only place that knows a TFLite runtime: which one, its threads and delegates, and whether a model works on it.

::

    runtime = load_runtime("auto")
    engine = TfliteEngine(path, runtime, threads=1)
    inputs, outputs = engine.allocate()
    engine.invoke(inputs, outputs)
"""

from .accelerated import AcceleratedEngine, AcceleratorStatus, Proof
from .base import Engine, EngineDescription
from .delegate import EDGETPU, EDGETPU_MEMBER, Delegate, find_delegate
from .isolated import IsolatedEngine
from .probe import probe, probe_bundle
from .runtime import RUNTIMES, Runtime, load_runtime
from .selftest import SelfTest, run_self_test
from .tflite import TfliteEngine

__all__ = [
    "EDGETPU",
    "EDGETPU_MEMBER",
    "RUNTIMES",
    "AcceleratedEngine",
    "AcceleratorStatus",
    "Delegate",
    "Engine",
    "EngineDescription",
    "IsolatedEngine",
    "Proof",
    "Runtime",
    "SelfTest",
    "TfliteEngine",
    "find_delegate",
    "load_runtime",
    "probe",
    "probe_bundle",
    "run_self_test",
]
