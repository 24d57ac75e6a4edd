"""``vedette show [MODEL]``"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .plain import add_plain_arguments, plain_model

if TYPE_CHECKING:
    from rich.table import Table

    from vedette.contract.image_options import ImageOptions
    from vedette.contract.manifest import InputSpec

HELP = "show what a model says of itself, or list the models there are"
DESCRIPTION = "Shows a model's manifest, members and figures after checking every digest; without MODEL, lists models."
EXAMPLES = """examples:
  vedette show
  vedette show coco-ssdlite-mobilenet-v2
  vedette show coco-ssdlite-mobilenet-v2 --json | jq .evaluation

--json prints one object: path, bytes, sha256, bundle, name, version, labels, input (null where its own tensor says it),
output, and for a bundle its manifest's fields, members (bytes by name) and measurements. Without MODEL: an object with
a list `models`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares this command's options."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="a name or a file; without it, all there are")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    add_plain_arguments(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Runs the command. The exit code."""
    import msgspec
    from rich.markup import escape
    from rich.table import Table

    from vedette.contract.bundle import has_archive
    from vedette.contract.image_options import ImageOptions
    from vedette.contract.labels import is_used
    from vedette.contract.manifest import AnomalyOutput, SeriesInput, decoder_name
    from vedette.models.model import model_folders, read_model
    from vedette.terminal import Console

    console = Console(highlight=False)
    if arguments.model is None:
        files = [f for folder in model_folders() if folder.is_dir() for f in sorted(folder.glob("*.tflite"))]
        if arguments.json:
            print(json.dumps({"models": [{"name": f.stem, "path": str(f), "bytes": f.stat().st_size} for f in files]}))
            return 0
        for folder, some in itertools.groupby(files, lambda f: f.parent):
            console.print(escape(f"{folder}:"), soft_wrap=True)
            console.print(_listed(list(some)))
        if not files:
            console.print("no models in " + ", ".join(map(str, model_folders())))
        return 0
    spec = read_model(arguments.model, plain_model(arguments))
    document = {
        "path": str(spec.path),
        "bytes": spec.path.stat().st_size,
        "sha256": spec.sha256,
        "bundle": spec.bundle is not None,
        "name": spec.name,
        "version": spec.version,
        "labels": list(spec.labels),
        "input": msgspec.to_builtins(spec.input) if spec.input != ImageOptions() else None,
        "output": msgspec.to_builtins(spec.output),
    }
    bundle = spec.bundle
    if bundle is not None:
        document |= msgspec.to_builtins(bundle.manifest)
        document["members"] = dict(bundle.members)
        if (measured := bundle.measurements()) is not None:
            document["measurements"] = measured
    if arguments.json:
        print(json.dumps(document))
        return 0
    console.print(f"[bold]{escape(spec.name)}[/] version {spec.version}   {escape(str(spec.path))}")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("size", f"{spec.path.stat().st_size / 1e6:.2f} MB")
    table.add_row("sha256", spec.sha256)
    table.add_row("input", _input(spec.input))
    if isinstance(spec.input, SeriesInput):
        channels = [f"{channel.name}{f' ({channel.unit})' if channel.unit else ''}" for channel in spec.input.channels]
        table.add_row("channels", escape(f"{len(channels)}: {', '.join(channels)}"))
    if isinstance(spec.output, AnomalyOutput):
        table.add_row("threshold", f"{spec.output.threshold:.6g} ({spec.output.error})")
    table.add_row("decoder", decoder_name(spec.output))
    labels = [label for label in spec.labels if is_used(label)]
    table.add_row("labels", escape(f"{len(labels)}: {', '.join(labels)}"))
    if bundle is None:
        table.add_row("manifest", "none: a plain model" if not has_archive(Path(spec.path)) else "damaged")
    else:
        manifest = bundle.manifest
        table.add_row("task", f"{manifest.task}, {manifest.precision}")
        table.add_row("network", f"{manifest.flatbuffer_bytes / 1e6:.2f} MB")
        table.add_row("members", ", ".join(f"{n} {s / 1e3:.0f} kB" for n, s in bundle.members.items()))
        table.add_row("licence", f"{manifest.source.licence}; {escape(manifest.source.attribution)}")
        table.add_row("from", escape(manifest.source.url))
        for evaluation in manifest.evaluation:
            for metric in evaluation.metrics:
                interval = metric.difference_interval
                spread = f"  95 % of the difference: {interval[0]:+.4f}..{interval[1]:+.4f}" if interval else ""
                table.add_row(
                    "measured",
                    f"{escape(metric.name)}: {metric.before:.4g} -> {metric.after:.4g} {metric.unit}{spread}  "
                    f"[dim]({escape(evaluation.data.name)}, n={evaluation.data.count})[/]",
                )
    console.print(table)
    return 0


def _listed(files: Sequence[Path]) -> Table:
    """A line a model: name, task, labels, input, size. Of a file that says nothing of itself, or nothing true, that."""
    from rich.markup import escape
    from rich.table import Table

    from vedette.contract.errors import ModelError
    from vedette.contract.labels import is_used
    from vedette.contract.manifest import task_of
    from vedette.models.model import read_model

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold")
    for justify in ("left", "right", "left", "right"):
        table.add_column(no_wrap=True, justify=justify)
    for file in files:
        name, size = f"[bold]{escape(file.stem)}[/]", f"{file.stat().st_size / 1e6:.2f} MB"
        try:
            spec = read_model(str(file))
        except ModelError:
            table.add_row(name, "[dim]no bundle[/]", "", "", size)
            continue
        count = sum(map(is_used, spec.labels))
        labels = f"{count} label{'' if count == 1 else 's'}"
        table.add_row(name, task_of(spec.output), labels, _input(spec.input, short=True), size)
    return table


def _input(spec: InputSpec | ImageOptions, *, short: bool = False) -> str:
    """What the network looks at. ``short``: without how it is made."""
    import msgspec

    from vedette.contract.image_options import ImageOptions
    from vedette.contract.manifest import SeriesInput

    if isinstance(spec, ImageOptions):
        unsaid = msgspec.structs.asdict(ImageOptions())
        said = [f"{name} {value}" for name, value in msgspec.structs.asdict(spec).items() if value != unsaid[name]]
        return ", ".join([*said, "the rest as its own tensor says"] if said else ["as its own tensor says"])
    if isinstance(spec, SeriesInput):
        rate = f" at {spec.rate_hz:g} Hz" if spec.rate_hz else ""
        return f"{spec.length} reading{'' if spec.length == 1 else 's'}{rate}" + (
            "" if short else f", a window every {spec.stride}"
        )
    return f"{spec.width}x{spec.height}" + ("" if short else f" {spec.color}, {spec.resize}")
