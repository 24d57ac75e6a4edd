"""Published networks -> one `Network` that the steps work on. One file a format, named in the recipe."""

from __future__ import annotations

from ..recipe.sources import TfjsSource
from ..source import SourceFiles
from .network import Network


def load_network(source: TfjsSource, files: SourceFiles, input_shape: tuple[int, ...]) -> Network:
    """Loads with the loader that the recipe's ``source.format`` names.

    ``input_shape``: what the network is fed, batch 1 included. Raises `ModelError` where the files are not what the
    recipe says.
    """
    from . import tfjs

    return tfjs.load(source, files, input_shape)


__all__ = ["Network", "load_network"]
