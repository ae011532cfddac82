"""``python -m d2st``: the command line, as torchrun starts it."""

import sys

from .cli import main
from .stop import end_with_parent

end_with_parent()
sys.exit(main())
