"""Options of the commands: read without PyTorch, each with its help, and none of them written twice."""

import dataclasses
import subprocess
import sys

import pytest

from d2st.commands import classifier_options, options, tool_options
from d2st.data.options import TextConfig
from d2st.utils.config import Checked, hints_of, option, reuse

MODULES = options, classifier_options, tool_options
CONFIGS = [
    value
    for module in MODULES
    for name, value in vars(module).items()
    if name.endswith("Config") and value.__module__ == module.__name__
]
CONFIGS += [TextConfig]


def test_options_are_read_without_pytorch():
    names = ", ".join(module.__name__ for module in MODULES)
    code = f"import sys, {names}; print([m for m in ('torch', 'numpy', 'timm', 'av') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_option_has_its_help_and_a_type(config):
    hints = hints_of(config)
    for field in dataclasses.fields(config):
        assert field.metadata["help"] and not field.metadata["help"].endswith("."), field.name
        assert hints[field.name] is not object, field.name


def test_a_field_is_taken_from_another_group_with_a_change():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Group(Checked):
        rate: float = option(0.5, "of learning", least=0)
        names: tuple[str, ...] = option((), "of layers")

    @dataclasses.dataclass(frozen=True)
    class Config(Checked):
        rate: float = reuse(Group, "rate", 0.1)
        names: tuple[str, ...] = reuse(Group, "names", help="of blocks")

    rate, names = dataclasses.fields(Config)
    assert (rate.default, rate.metadata["help"], str(rate.metadata["bounds"])) == (0.1, "of learning", " of at least 0")
    assert (names.default, names.metadata["help"]) == ((), "of blocks")
