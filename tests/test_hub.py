"""What is a path and what is a repository on the Hub."""

import inspect
from pathlib import Path

import huggingface_hub
import pytest

import d2st
from d2st.utils.hub import find

CONFIG = "adapter_config.json"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """An empty folder to be in, and what the Hub was asked for."""
    calls = []

    def snapshot_download(name, *, allow_patterns, revision):
        calls.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    return calls


def test_a_misspelt_path_is_not_asked_for_on_the_hub(asked):
    Path("runs/first").mkdir(parents=True)
    assert find("runs/first", CONFIG) == Path("runs/first")
    with pytest.raises(d2st.D2STError, match=r"no folder 'runs/frist'.*there is one 'runs'.*hub:runs/frist"):
        d2st.load("runs/frist")
    Path("file").write_text("")
    for path in ("./first", "/runs/frist", "../x", "frist", "rums/", "a/b/c", "~/x", "file/x", ".hidden/x", ""):
        with pytest.raises(d2st.D2STError):
            find(path, CONFIG)
    assert not asked


def test_repositories(asked):
    Path("runs").mkdir()
    find("someone/adapter", CONFIG)
    find("hub:runs/frist", CONFIG)
    find("hub:someone/adapter@v1", CONFIG)
    find("someone/adapter", CONFIG, revision="0a1b2c")
    assert asked == [
        ("someone/adapter", None), ("runs/frist", None), ("someone/adapter", "v1"), ("someone/adapter", "0a1b2c")
    ]  # fmt: skip
    for wrong in ("hub:", "hub:/x", "hub:a/b/c", "hub:../x", "hub:a b/c"):
        with pytest.raises(d2st.D2STError, match="neither a folder"):
            find(wrong, CONFIG)
    for name, revision in (("hub:a/b@v1", "v2"), ("hub:a/b@", None), ("hub:a/b@", "v1")):
        with pytest.raises(d2st.D2STError, match="says a revision behind '@'"):
            find(name, CONFIG, revision=revision)
    find("hub:a/b@v1", CONFIG, revision="v1")
    with pytest.raises(d2st.D2STError, match="has no revision='v1'"):
        find("runs", CONFIG, revision="v1")


def test_everything_that_is_loaded_can_be_pinned():
    loaders = d2st.load, d2st.heads.load, d2st.FewShotClassifier.from_pretrained, d2st.VideoClassifier.from_pretrained
    for loader in loaders:
        assert "revision" in inspect.signature(loader).parameters
