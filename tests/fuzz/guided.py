"""One entrance under atheris (libFuzzer), which grows its inputs by what they reach in vedette's own code and paho's.

``guided.py NAME CORPUS [libFuzzer's options, more folders of inputs]``; ``bench/fuzz.py`` runs it, and reads what libFuzzer
says on stderr.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
import atheris  # noqa: E402

with atheris.instrument_imports(include=["vedette", "paho"], enable_loader_override=False):
    from entrances import ENTRANCES

    import vedette.contract
    import vedette.mqtt
    import vedette.outbox
    import vedette.sources
    import vedette.trust

    # those that are imported when they are needed, too: only what is imported here can tell what of it was reached
    for package in (vedette.sources, vedette.outbox, vedette.mqtt, vedette.trust, vedette.contract):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)

from malformed import TOKENS  # noqa: E402


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    name, corpus, *options = sys.argv[1:]
    entrance = ENTRANCES[name]
    logging.disable()
    folder = Path(tempfile.mkdtemp())
    for part in ("seeds", "used"):
        (folder / part).mkdir()
    for number, seed in enumerate(entrance.seeds(folder / "seeds")):
        (Path(corpus) / f"seed-{number:03}").write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS if len(token) <= 64))
    take = entrance.made(folder / "used")

    def take_one(data: bytes) -> None:
        take(data)

    arguments = [f"-max_len={entrance.max_bytes}", f"-dict={words}", "-print_final_stats=1", corpus, *options]
    atheris.Setup([sys.argv[0], *arguments], take_one)
    atheris.Fuzz()


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    main()
