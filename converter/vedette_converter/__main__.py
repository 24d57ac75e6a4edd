"""``vedette-convert`` and ``python -m vedette_converter``."""

import sys

from vedette import interrupt


def main() -> int:
    """The entry point. Returns the exit code."""
    interrupt.ends_at_once()
    from . import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
