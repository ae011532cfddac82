"""CONTRIBUTING.md names what is there."""

import re
from pathlib import Path

import d2st

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()


def test_the_map_names_files_that_exist():
    root = Path(d2st.__file__).parent
    for path in re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT):
        if not path.startswith("tests/"):
            assert (root / path).exists(), f"CONTRIBUTING.md names {path}, which is not in the package"
