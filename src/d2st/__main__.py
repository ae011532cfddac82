"""``python -m d2st``: the command line, as torchrun starts it."""

import sys

from .commands.cli import main
from .utils.signals import end_with_parent

end_with_parent()
sys.exit(main())
