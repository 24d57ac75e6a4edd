"""Keras networks: ``.keras`` of Keras 3, and ``.h5`` or ``.keras`` of Keras 2 and tf_keras.

What Keras 3 does not read is read by tf_keras, and then made a Keras 3 network where that is possible: its layers'
options that Keras 3 does not know (``groups`` of an old DepthwiseConv2D) are taken out, and the outputs of both compared.

A file from elsewhere is data: a layer that carries code is refused before any of it is read in.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np

from vedette.contract.errors import MissingPackageError, ModelError

from ..cloned import copied
from ..recipe.sources import KerasSource
from ..source import SourceFiles
from ..tensorflow import captured_native_output, load_tensorflow
from .graph import as_network, feed_floats, first_line, freeze, refuse_bad
from .keras_code import refuse_code, refuse_own
from .network import Network
from .shapes import TO_CHANNELS_FIRST, Fed, Shape, fix_shape, only_given

MAX_DIFFERENCE: Final = 1e-5  # of the largest output, between tf_keras and the network that Keras 3 made of it

_HALF: Final = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
_ALWAYS_KNOWN: Final = frozenset({"batch_input_shape", "batch_shape", "input_shape", "input_dtype", "input_dim"})


def load(source: KerasSource, files: SourceFiles, input_shape: Shape | None) -> Network:
    """The network in the file, with its Keras 3 ``model`` wherever there can be one.

    Raises `ModelError` where the file is none of Keras's, is truncated, carries code or layers of its own, or the
    network's shapes and weights are not what can be converted.
    """
    load_tensorflow()  # sets Keras's backend up, quietly
    where = files.where
    content = files.only
    legacy = content[:8] == b"\x89HDF\r\n\x1a\n"
    if not legacy and content[:2] != b"PK":
        raise ModelError(
            "no Keras network", where=where, expected="a .keras or .h5 file", found="neither by its first bytes",
            fix="the file is of another format, or not whole",
        )  # fmt: skip
    config = _config_of_h5(content, where) if legacy else _config_of_zip(content, where)
    refuse_code(config, where)
    with tempfile.TemporaryDirectory(prefix="vedette-keras-") as folder:
        path = Path(folder) / ("network.h5" if legacy else "network.keras")
        path.write_bytes(content)  # what was verified, whatever happens to the user's file meanwhile
        if _widen(config):
            _write_config(path, config)
        try:
            model = _load_keras_3(path)
        except Exception as error:  # noqa: BLE001 - Keras raises what it comes across, TypeError and KeyError among it
            return _load_older(path, Path(folder), input_shape, where, first_line(error))
    return from_model(model, where=where, input_shape=input_shape)


def from_model(model: Any, *, where: str = "network", input_shape: Shape | None = None) -> Network:
    """A Keras 3 functional or Sequential model as a `Network`: after loading, pruning or training.

    ``input_shape``: what it is fed, batch 1 included, where the model leaves a dimension open. The network's ``model``
    takes any batch. Raises `ModelError`.
    """
    import keras

    model = _functional(model, input_shape, where)
    names = [str(tensor.name) for tensor in model.inputs]
    for tensor in (*model.inputs, *model.outputs):
        if isinstance(tensor.dtype, str) and (tensor.sparse or tensor.ragged):
            raise ModelError(f"tensor {tensor.name}", where=where, expected="a dense tensor", found="sparse or ragged")
    if stateful := [layer.name for layer in model._flatten_layers() if getattr(layer, "stateful", False)]:
        raise ModelError(
            f"layer {stateful[0]}", where=where, expected="the same answer to the same sample",
            found="stateful=True: what it saw before", fix="build it with stateful=False, and set_weights(get_weights())",
        )  # fmt: skip
    given = only_given(names, input_shape, where)
    fed = [fix_shape(name, t.shape, given, where) for name, t in zip(names, model.inputs, strict=True)]
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            refuse_bad(np.asarray(weight.value), weight.path, where)
    if any(how.channels_first or None in t.shape[1:] for how, t in zip(fed, model.inputs, strict=True)):
        model = _with_inputs(model, fed)
        fed = [Fed(how.shape) for how in fed]
    dtypes = [tensor.dtype for tensor in model.inputs]
    output_names = [str(name) for name in model.output_names]
    return _freeze(model, names, fed, dtypes, _each_once(output_names), where, keep=model)


def _freeze(
    call: Any, names: Sequence[str], fed: Sequence[Fed], dtypes: Sequence[str], outputs: Sequence[str], where: str,
    keep: Any = None,
) -> Network:  # fmt: skip
    def flat(*tensors: Any) -> list[Any]:
        results = call(tensors[0] if len(tensors) == 1 else list(tensors), training=False)
        return list(results) if isinstance(results, list | tuple) else [results]

    try:
        graph, frozen = freeze(flat, [(how.inner, dtype) for how, dtype in zip(fed, dtypes, strict=True)])
    except Exception as error:  # noqa: BLE001 - whatever a layer raises when it is traced with this shape
        raise ModelError("the network does not run on this shape", where=where, found=first_line(error)) from None
    nodes = [tensor.op.name for tensor in frozen.inputs]
    if len(nodes) != len(names):
        raise ModelError("an input that nothing reads", where=where, expected=", ".join(names), found=str(len(nodes)))
    entries = dict(zip(nodes, zip(names, fed, strict=True), strict=True))
    for node, dtype in zip(nodes, dtypes, strict=True):
        if dtype != "float32":
            feed_floats(graph, node, where)
    tensors = [(str(tensor.name), name) for tensor, name in zip(frozen.outputs, outputs, strict=True)]
    return as_network(graph, entries, tensors, where, model=keep)


def _functional(model: Any, input_shape: Shape | None, where: str) -> Any:
    """Fed by one tensor or a list of several: Sequential models and those fed by a dictionary become such as well."""
    import keras

    if isinstance(model, keras.Sequential) and not model.built:
        if input_shape is None:
            raise ModelError(
                "input", where=where, expected="a shape", found="none stated", fix="give the input's shape"
            )
        model.build(input_shape)
    plain = type(model) is keras.Model or type(model).__name__ == "Functional"
    if not (isinstance(model, keras.Sequential) or plain) or not getattr(model, "inputs", None):
        raise ModelError(
            "a network without a graph of layers", where=where, expected="a functional or Sequential model",
            found=type(model).__name__, fix="give it as a SavedModel: model.export(FOLDER)",
        )  # fmt: skip
    inputs, outputs = list(model.inputs), list(model.outputs)
    if plain and (model.input is inputs[0] if len(inputs) == 1 else isinstance(model.input, list)):
        return model
    return keras.Model(
        inputs[0] if len(inputs) == 1 else inputs, outputs[0] if len(outputs) == 1 else outputs, name=model.name
    )


def _with_inputs(model: Any, fed: Sequence[Fed]) -> Any:
    """The same network and weights behind inputs of these shapes."""
    import keras

    inputs = [
        keras.Input(how.shape[1:], dtype=tensor.dtype, name=str(tensor.name))
        for how, tensor in zip(fed, model.inputs, strict=True)
    ]
    if any(how.channels_first for how in fed):
        inner = [
            keras.layers.Permute(TO_CHANNELS_FIRST[1:])(x) if how.channels_first else x
            for x, how in zip(inputs, fed, strict=True)
        ]
        outputs = model(inner[0] if len(inner) == 1 else inner)
        return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs, name=f"{model.name}_nhwc")
    return copied(model, inputs[0] if len(inputs) == 1 else inputs)


def _load_keras_3(path: Path) -> Any:
    import keras

    with captured_native_output(), warnings.catch_warnings(), _quiet():
        warnings.simplefilter("ignore")  # of the format's age
        return keras.models.load_model(path, compile=False, safe_mode=True)


def _load_older(path: Path, folder: Path, input_shape: Shape | None, where: str, problem: str) -> Network:
    """What Keras 3 refused with ``problem``: through tf_keras, and back to Keras 3 where both then agree."""
    try:
        with captured_native_output(), warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            import tf_keras

            old = tf_keras.models.load_model(path, compile=False, safe_mode=True)
            if path.suffix != ".h5":
                path = folder / "network.h5"
                old.save(path)
    except ImportError as error:
        raise MissingPackageError(
            "Keras 3 does not read this network", where=where, found=f"{problem}; {error}", fix="pip install tf-keras"
        ) from None
    except Exception as error:  # noqa: BLE001 - as above
        if unknown := re.match(r"Unknown layer: '?(\w+)", problem):  # an older .h5 names no modules
            refuse_own("class", where, unknown[1])
        # its own words where both stumbled over the same thing: Keras 3 looks at the file first
        raise ModelError(
            "neither Keras 3 nor tf_keras can read it", where=where, found=f"{problem} | {first_line(error)}",
            fix="a truncated file, or layers of its own: save it anew with Keras's own layers, or as a SavedModel",
        ) from None  # fmt: skip
    if not getattr(old, "inputs", None):
        raise ModelError("a network without a graph of layers", where=where, found=type(old).__name__)
    given = only_given([t.name for t in old.inputs], input_shape, where)
    fed = [fix_shape(t.name, t.shape.as_list(), given, where) for t in old.inputs]
    new = _mended(path, folder, input_shape, where)
    if new is not None and _difference(old, new, fed) <= MAX_DIFFERENCE:
        return from_model(new, where=where, input_shape=input_shape)
    for weight in old.weights:
        if weight.dtype.is_floating:
            refuse_bad(weight.numpy(), weight.name, where)
    names = [str(tensor.name) for tensor in old.inputs]
    return _freeze(
        old, names, fed, [tensor.dtype.name for tensor in old.inputs], _each_once(list(old.output_names)), where
    )


def _mended(path: Path, folder: Path, input_shape: Shape | None, where: str) -> Any:
    """An ``.h5`` read by Keras 3 after what it does not know was taken out; None where it still will not have it."""
    mended = folder / "mended.h5"
    mended.write_bytes(path.read_bytes())
    with h5py.File(mended, "r") as file:
        config = json.loads(file.attrs["model_config"])
    _drop_unknown(config)
    _write_config(mended, config)
    try:
        return _functional(_load_keras_3(mended), input_shape, where)
    except Exception as error:  # noqa: BLE001 - then the network stays with tf_keras
        logging.getLogger(__name__).info("stays with tf_keras: %s", first_line(error))
        return None


def _widen(config: Any) -> bool:
    """Has every layer compute in float32 that was trained to compute in half precision, in place. Whether any was.

    Its weights are float32 or become it; TFLite has no arithmetic in less, and GPUs train like that.
    """
    changed = False
    if isinstance(config, dict):
        for key in ("dtype", "name") if config.keys() == {"name"} else ("dtype",):  # a policy has a name alone
            if config.get(key) in _HALF:
                config[key], changed = "float32", True
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        changed |= _widen(value)
    return changed


def _write_config(path: Path, config: Any) -> None:
    """The network's description in the file, another in its place."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            del file.attrs["model_config"]
            file.attrs["model_config"] = json.dumps(config)
        return
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as before, zipfile.ZipFile(path, "w") as after:
        for name in before.namelist():
            after.writestr(name, json.dumps(config) if name == "config.json" else before.read(name))


def _drop_unknown(config: Any) -> None:
    """Takes out of every layer's options those that the Keras 3 layer of this name does not know, in place."""
    import keras

    if isinstance(config, list):
        for item in config:
            _drop_unknown(item)
    if not isinstance(config, dict):
        return
    options, kind = config.get("config"), getattr(keras.layers, str(config.get("class_name")), None)
    if isinstance(options, dict) and isinstance(kind, type) and kind is not keras.layers.InputLayer:
        known = _ALWAYS_KNOWN | {name for base in kind.__mro__ for name in _options(base)}
        for name in set(options) - known:
            del options[name]
    for value in config.values():
        _drop_unknown(value)


def _options(kind: type) -> set[str]:
    initialise = vars(kind).get("__init__")
    return set(inspect.signature(initialise).parameters) if inspect.isfunction(initialise) else set()


def _difference(old: Any, new: Any, fed: Sequence[Fed]) -> float:
    """The largest difference of their outputs on noise, as a share of the largest output; infinity where shapes differ."""
    rng = np.random.default_rng(1)
    samples = [rng.normal(size=(4, *how.inner[1:])).astype(np.float32) for how in fed]
    before, after = (_as_list(model(samples[0] if len(samples) == 1 else samples)) for model in (old, new))
    if [b.shape for b in before] != [a.shape for a in after]:
        return float("inf")
    worst = 0.0
    for b, a in zip(before, after, strict=True):
        worst = max(worst, float(np.abs(b - a).max() / max(1e-6, float(np.abs(b).max()))))
    return worst if np.isfinite(worst) else float("inf")


def _as_list(results: Any) -> list[Any]:
    return [np.asarray(r) for r in (results if isinstance(results, list | tuple) else [results])]


def _config_of_h5(content: bytes, where: str) -> Any:
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            text = file.attrs.get("model_config")
            weights_only = text is None and ("layer_names" in file.attrs or "layers" in file or len(file) > 0)
            return _json(text, where) if text is not None else _no_network(where, weights_only)
    except (OSError, KeyError, RuntimeError) as error:
        raise ModelError(
            "cannot be read as HDF5", where=where, found=first_line(error), fix="the file is truncated: get it again"
        ) from None


def _no_network(where: str, weights_only: bool) -> Any:
    raise ModelError(
        "no network in the file", where=where, expected="what model.save(...) writes",
        found="weights alone" if weights_only else "an HDF5 file of something else",
    )  # fmt: skip


def _config_of_zip(content: bytes, where: str) -> Any:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"{broken} is damaged")
            return _json(archive.read("config.json"), where)
    except KeyError:
        raise ModelError(
            "no Keras network", where=where, expected="config.json in the archive", found="another zip"
        ) from None
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        raise ModelError(
            "cannot be read as a .keras file", where=where, found=first_line(error),
            fix="the file is truncated: get it again",
        ) from None  # fmt: skip


def _json(text: str | bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError("the network's description is no JSON", where=where, found=first_line(error)) from None


def _each_once(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
