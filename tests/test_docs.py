"""The documentation: links that lead somewhere, and the tutorial's commands as they stand there (on few episodes)."""

import re
import shutil
from pathlib import Path

import pytest
import small

from d2st.commands import cli

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)```", TUTORIAL, re.MULTILINE | re.DOTALL)
COMMANDS = [command.split() for block in BLOCKS for command in re.findall(r"^d2st (.+)$", block, re.MULTILINE)]
SHORTER = {
    "check-data": ["--way", "2", "--workers", "0"],
    "live": ["--seconds", "2"],
    "prepare": ["--workers", "0"],
    "train": ["--episodes", "2", "--way", "3", "--adapter.positions", "[3]"],
    "eval": ["--episodes", "20", "--way", "3", "--shot", "1,4"],
    "export": ["--format", "pt2"],  # tests/test_export.py writes ONNX
}


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as repositories' web views and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if "://" not in target:
            place = page.parent / target if target else page
            assert place.exists(), f"{page.name} links to {target}, which is not there"
            assert not anchor or anchor in anchors(place), f"{page.name} links to {target}#{anchor}"


@pytest.fixture(scope="module")
def own_clips(tmp_path_factory):
    """A folder in which the tutorial's commands were run, one after the other."""
    folder = small.write_dataset(tmp_path_factory.mktemp("tutorial"))
    (folder / "data").rename(folder / "clips")
    (folder / "new").mkdir()
    for shown, name in {"move-up": "pink", "zigzag-down": "sand", "circle": "teal"}.items():
        (folder / "support" / shown).mkdir(parents=True)
        for n in range(5):
            shutil.copy(folder / "clips" / name / f"{n}.mp4", folder / "support" / shown / f"00{n}.mp4")
    shutil.copy(folder / "clips" / "pink" / "4.mp4", folder / "new" / "move-up-5.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for verb, *flags in COMMANDS:
            assert cli.main([verb, *flags, *SHORTER.get(verb, [])]) == 0, verb
    return folder


def test_tutorial_uses_the_verbs_in_this_order():
    verbs = "learn predict live check-data prepare train learn predict eval predict export"
    assert [verb for verb, *_ in COMMANDS] == verbs.split()


def test_tutorial_leaves_what_it_promises(own_clips, monkeypatch):
    monkeypatch.chdir(own_clips)
    assert (own_clips / "runs/first/best/adapter_model.safetensors").exists()
    assert (own_clips / "exported/encoder.pt2").exists()
    (snippet,) = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
    seen = {}
    exec(snippet, seen)
    assert seen["answer"].label in ("again", "move-up", "zigzag-down", "circle")
    assert "again" not in seen["recognizer"].classes


def test_the_researchers_snippet_runs():
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "research.md").read_text(), re.DOTALL)
    seen = {}
    exec(snippet, seen)
    assert seen["logits"].shape == (2, 2)


def test_the_tests_that_hold_the_promises_exist():
    promised = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "comparable.md").read_text()))
    there = {
        name for file in (ROOT / "tests").glob("test_*.py") for name in re.findall(r"def (test_\w+)", file.read_text())
    }
    assert len(promised) >= 8 and promised <= there
