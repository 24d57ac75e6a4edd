"""What a saved Keras network may not bring along: code, and classes or functions that are not Keras's own."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from vedette.contract.errors import ModelError

_CODE: Final = frozenset({"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
_FORBIDDEN_MODULES: Final = ("keras.utils", "keras.saving", "keras.config", "keras.src.utils", "keras.src.saving")


def refuse_code(config: Any, where: str, layer: str = "") -> None:
    """Raises `ModelError` where a layer carries code, names a class of its own, or a function that is no activation."""
    if isinstance(config, list):
        for item in config:
            refuse_code(item, where, layer)
    if not isinstance(config, dict):
        return
    options = config.get("config")
    kind = config.get("class_name")
    if isinstance(kind, str):
        name = options.get("name") if isinstance(options, dict) else None
        layer = f"layer {name}" if isinstance(name, str) else layer
        module, place = config.get("module"), f"{where}: {layer}" if layer else where
        if kind in _CODE:
            raise ModelError(
                "a layer that carries code", where=place, found=kind,
                fix="replace it by layers of Keras, or give the network as a SavedModel: model.export(FOLDER)",
            )  # fmt: skip
        if (module, kind) == ("builtins", "function") and not _has_function(options):
            refuse_own("function", place, options)
        known = module is None or module == "builtins" or str(module).split(".")[0] in ("keras", "tf_keras")
        # Keras names no module of such a class
        registered = module is None and config.get("registered_name") is not None
        if not known or registered or str(module).startswith(_FORBIDDEN_MODULES) or ">" in kind:
            refuse_own("class", place, kind if module is None else f"{module}.{kind}")
    for key, value in config.items():
        if key not in ("compile_config", "training_config"):  # never read in
            refuse_code(value, where, layer)


def _has_function(name: Any) -> bool:
    """Whether Keras has a function of that name, as it has for ``activation=tf.nn.relu``."""
    import keras

    return any(hasattr(getattr(keras, module), str(name)) for module in ("activations", "initializers", "regularizers"))


def refuse_own(what: str, where: str, found: Any) -> NoReturn:
    """Raises `ModelError` for a class or function, ``what``, that only the network's author has."""
    raise ModelError(
        f"a {what} that is not Keras's own", where=where, found=str(found),
        fix="replace it by what Keras has, or give the network as a SavedModel: model.export(FOLDER)",
    )  # fmt: skip
