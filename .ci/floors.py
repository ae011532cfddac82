"""Prints the lowest versions that pyproject.toml allows, as pip's constraints: ``torch==2.6``, a line each."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"].values()
for requirement in sorted({*project["dependencies"], *(one for extra in extras for one in extra)}):
    name, floor = re.fullmatch(r"([\w-]+)(?:\[.*\])?>=([\d.]+)", requirement).groups()
    print(f"{name}=={floor}")
