"""``python -m vedette_converter.cli``."""

import sys

from . import main

sys.exit(main())
