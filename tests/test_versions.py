"""Versions: what pyproject.toml allows, what constraints.txt names, what README says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
TESTED = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}


def test_constraints_name_every_direct_dependency_within_its_bounds():
    for requirement in DIRECT:
        assert requirement.specifier.contains(TESTED[canonicalize_name(requirement.name)]), requirement


def test_constraints_work_on_any_machine():
    """No paths, no builds of one machine, no libraries of one kind of GPU."""
    for line in LINES:
        assert re.fullmatch(r"[\w.-]+==[\w.]+", line) and not re.match(r"nvidia|cuda|triton", line), line


def test_every_bound_is_a_floor_and_the_same_wherever_it_stands():
    bounds = {}
    for requirement in DIRECT:
        assert re.fullmatch(r">=[\d.]+", str(requirement.specifier)), requirement
        assert bounds.setdefault(requirement.name, requirement.specifier) == requirement.specifier, requirement


def test_floors_are_printed_as_constraints():
    command = [sys.executable, str(ROOT / ".ci" / "floors.py")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    floors = {name: Version(version) for name, version in (line.split("==") for line in lines)}
    assert floors.keys() == {requirement.name for requirement in DIRECT}
    for requirement in DIRECT:
        assert requirement.specifier.contains(floors[requirement.name])
        assert floors[requirement.name] <= Version(TESTED[canonicalize_name(requirement.name)])


def test_readme_names_the_tested_versions_and_tests_with_them():
    text = (ROOT / "README.md").read_text()
    (said,) = re.findall(r"^Tested with (.+) on Linux", text, re.MULTILINE)
    for name, version in re.findall(r"(torch|torchvision|timm|gradio) (\d[\d.]*\d)", said):
        assert TESTED[name].startswith(version), f"README says {name} {version}, constraints.txt {TESTED[name]}"
    assert 'pip install -c constraints.txt -e ".[dev]"' in text
