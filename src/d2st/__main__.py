"""``python -m d2st``: the command line, as torchrun starts it."""

import sys

from .cli import main

sys.exit(main())
