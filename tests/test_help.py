"""Help of the commands: quick, readable, with examples; and every command that the documentation shows is parsed."""

import inspect
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from d2st import adapters, heads
from d2st.commands import cli
from d2st.commands.completion import completion
from d2st.commands.parser import classifier_command, parse
from d2st.commands.registry import COMMANDS, load
from d2st.errors import D2STError
from d2st.factory import options

ROOT = Path(__file__).parent.parent
ELSEWHERE = "adding-an-adapter.md"  # whose commands know an adapter of its own: tests/test_adding_an_adapter.py
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != ELSEWHERE)]
FENCE = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown(page):
    """The ``d2st`` commands in the code blocks of a page, as lists of words."""
    for block in FENCE.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.search(r"(?:^|\s|-m )d2st (?=[a-z])(.*)", line)
            if command and not line.lstrip().startswith("#"):
                words = shlex.split(command[1], comments=True)
                yield words[: next((place for place, word in enumerate(words) if word in ("|", ">", "&&")), None)]


SHOWN = [pytest.param(words, id=f"{page.name}-{' '.join(words)[:60]}") for page in PAGES for words in shown(page)]
EXAMPLES = [example.split() for command in COMMANDS.values() for example in command.examples]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Make what a command names that must be there for it to be parsed: folders of adapters, and config files."""
    monkeypatch.chdir(tmp_path)

    def make(words):
        for flag, value in itertools.pairwise(words):
            if flag == "--adapter" and value not in options.adapter_names():
                Path(value).mkdir(parents=True, exist_ok=True)
            if flag == "--config" and value.endswith(".yaml") and not (ROOT / "src/d2st" / value).exists():
                Path(value).parent.mkdir(parents=True, exist_ok=True)
                Path(value).write_text("data: clips\n")

    return make


@pytest.mark.parametrize("words", [*SHOWN, *EXAMPLES], ids=lambda words: " ".join(words)[:60])
def test_commands_that_are_shown_are_parsed(words, folders, monkeypatch):
    name, *arguments = words
    if {"...", "${D[@]}"} & {*arguments}:  # flags that the page says before
        arguments = ["--data", "clips", *(word for word in arguments if word not in ("...", "${D[@]}"))]
    folders(arguments)
    if "--head.mixing" in arguments and "--head" not in arguments:
        monkeypatch.setattr("d2st.heads.head_file.saved_spec", lambda folder: heads.HeadSpec("clip-fsar"))
    if {"--help", "-h", "--print-config"} & {*arguments}:
        with pytest.raises(SystemExit):
            parse(name, arguments)
    else:
        assert type(parse(classifier_command(name, arguments), arguments)).__name__.endswith("Config")


def test_the_documentation_shows_commands():
    assert len(SHOWN) > 50 and {param.values[0][0] for param in SHOWN} == {*COMMANDS}


def test_help_of_every_command_imports_no_pytorch():
    code = (
        "import sys\nfrom d2st.commands.cli import main\nfrom d2st.commands.registry import COMMANDS\n"
        "for name in COMMANDS:\n    try: main([name, '--help'])\n    except SystemExit as end: assert not end.code\n"
        "print([m for m in ('torch', 'numpy', 'timm', 'av', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_readable_at_80_columns(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.run(name, ["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len({*lines}) > 20 and lines.count("Examples:") == 1
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings[0] == "Start with:" and headings[-2:] == ["Other:", "Examples:"]
    own = lines[lines.index("Start with:") + 1 : lines.index(headings[1])]
    flags = [line.split()[0] for line in own if line.startswith("  --")]
    assert flags == ["--" + flag.removesuffix("_path").replace("_", "-") for flag in COMMANDS[name].first]
    assert len(flags) == len({*flags}) == 5


def test_the_overview_is_readable_at_80_columns(capsys):
    assert cli.main([]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_a_function_of_its_config(name):
    (first, *_) = inspect.signature(load(COMMANDS[name].function)).parameters.values()
    assert first.annotation is load(COMMANDS[name].config)


def test_help_knows_every_adapter_and_head(monkeypatch):
    assert tuple(adapters.SYSTEMS) == options.ADAPTERS and tuple(heads.HEADS) == options.HEADS
    monkeypatch.setitem(adapters.SYSTEMS, "own", adapters.NoneConfig)
    monkeypatch.setitem(heads.HEADS, "mine", heads.OTAM)
    assert "own" in options.adapter_names() and "mine" in options.head_names()


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["--adapter", "d2st"], {"--adapter.ratio X": "(default: 0.25)", "--adapter.spatial": "reference points"}),
        (["--adapter", "d2st-local"], {"--adapter.offset-lr X": "(default: 0.1)", "--adapter.groups": "as released"}),
        (["--head", "trx"], {"--head.cardinalities N": "(default: 2,3)", "--head.dropout X": ""}),
    ],
)
def test_options_of_an_adapter_and_a_head_are_listed_where_it_is_named(arguments, flags, capsys):
    for given, found in ((arguments, True), ([], False)):
        with pytest.raises(SystemExit):
            parse("train", [*given, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for flag, described in flags.items():
            assert (flag in text) == found
            assert described in text or not found


def test_the_old_spelling_of_a_classifier_says_what_it_is_called_now(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("d2st.commands.train_classifier.train_full_shot", lambda config: seen.append(config) or {})
    for arguments in (["train", "--head", "linear"], ["train-classifier"]):
        assert cli.main([*arguments, "--data", "clips", "--epochs", "3"]) == 0
        said = capsys.readouterr().err
        assert ("is now called d2st train-classifier" in said) == (arguments[0] == "train")
    assert seen[0] == seen[1] and seen[0].epochs == 3


def test_completion_names_commands_and_flags():
    with pytest.raises(D2STError, match="bash"):
        completion(["fish"])
    pytest.importorskip("shtab", reason="shtab is not installed")
    script = completion(["bash"])
    assert "train-classifier" in script and "--image-size" in script and "d2st" in script
    assert "#compdef d2st" in completion(["zsh"])


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert cli.main(["--print-completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err
