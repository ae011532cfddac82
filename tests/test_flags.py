"""Flags and config files: the same settings in the same way, values as typed, flags over files."""

import dataclasses
import json
import random

import pytest
import yaml

from d2st import D2STConfig, D2STError, D2STLocalConfig, NoneConfig, STConfig, heads
from d2st.classifiers.video import is_classifier
from d2st.commands.parser import asks_for_classifier, parse
from d2st.commands.print_config import config_text
from d2st.commands.registry import COMMANDS, load
from d2st.heads import HeadSpec, TextConfig
from d2st.utils.config import hints_of
from d2st.utils.provenance import config_dict

CLASSES = {name: load(command.config) for name, command in COMMANDS.items()}


def read(command, *arguments):
    """The config that a command makes of its arguments."""
    return parse(command, [str(word) for word in arguments])


@pytest.fixture
def written(tmp_path):
    def write(text, name="run.yaml"):
        (tmp_path / name).write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return tmp_path / name

    return write


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("predict", ["--query", "001", "002"], {"query": ("001", "002")}),
        ("predict", ["--query", "001"], {"query": "001"}),
        ("predict", ["--query", "inf", "nan", "a"], {"query": ("inf", "nan", "a")}),
        ("predict", ["--query", "a", "--query", "b"], {"query": ("a", "b")}),
        ("predict", ["--query", "a", "--query=b", "--top", "5"], {"query": ("a", "b"), "top": 5}),
        ("predict", ["--query=-x.mp4"], {"query": "-x.mp4"}),
        ("predict", ["--query", "a,b.mp4"], {"query": "a,b.mp4"}),
        ("predict", ["--query", "[1].mp4"], {"query": "[1].mp4"}),
        ("predict", ["--query", "q", "--support", "20,30"], {"support": "20,30"}),
        ("predict", ["--query", "q", "--out", "12,5"], {"out": "12,5"}),
        ("prepare", ["--data", "2024,05", "--out", "007"], {"data": "2024,05", "out": "007"}),
        ("train", ["--data", "my-clips_1", "--image-size=112", "--symmetric"], {"image_size": 112, "symmetric": True}),
        ("train", ["--data", "x", "--symmetric", "false", "--decay-at", "0.5,0.6"], {"decay_at": (0.5, 0.6)}),
        ("train", ["--data", "x", "--decay-at", ".5", ".6", "--decay", "[.1,.2]"], {"decay": (0.1, 0.2)}),
        ("train", ["--data", "x", "--no-decay", "norm", "--lr", "1e-4"], {"no_decay": ("norm",), "lr": 1e-4}),
        ("train", ["--data", "x", "--no-decay", "bn,norm", "--seed", "1", "--seed", "2"], {"seed": 2}),
        ("eval", ["--data", "x", "--shot", "1,5"], {"shot": (1, 5)}),
        ("eval", ["--data", "x", "--shot", "1", "5"], {"shot": (1, 5)}),
        ("eval", ["--data", "x", "--shot", "1,5", "--shot", "1,4"], {"shot": (1, 4)}),
        ("eval", ["--data", "x", "--shot", "5", "--weights", "null"], {"shot": 5, "weights": None}),
        ("spot", ["--backbone", "d2st_stills", "sup", "v.mp4"], {"support": "sup", "video": "v.mp4"}),
        ("spot", ["sup", "v.mp4", "--lengths", ".5,.75"], {"video": "v.mp4", "lengths": (0.5, 0.75)}),
        ("spot", ["sup", "--lengths", "2", "--gap", "1", "v.mp4"], {"lengths": 2.0, "video": "v.mp4"}),
        ("spot", ["--support", "sup", "v.mp4"], {"support": "sup", "video": "v.mp4"}),
        ("visualize", ["--adapter", "d2st", "clip.mp4"], {"query": "clip.mp4", "adapter": D2STConfig()}),
        ("visualize", ["001", "--token", "4,120,80"], {"query": "001", "token": (4.0, 120.0, 80.0)}),
        ("check-data", ["--full", "FOLDER"], {"full": True, "data": "FOLDER"}),
        ("check-data", ["--full", "false", "ucf101", "V"], {"full": False, "split": "ucf101", "data": "V"}),
        ("reproduce", ["--dry-run", "4,5", "--seeds", "0,1,2"], {"what": "4,5", "dry_run": True, "seeds": (0, 1, 2)}),
        ("bench", ["--adapter", "d2st", "--adapter.positions", "0,1"], {"adapter": D2STConfig(positions=(0, 1))}),
        ("bench", ["--adapter.ratio", "0.5", "--adapter", "d2st"], {"adapter": D2STConfig(ratio=0.5)}),
        (
            "bench",
            ["--adapter", "d2st", "--adapter.spatial", "[[2,4,4],[1,2,2]]"],
            {"adapter": D2STConfig(spatial=((2, 4, 4), (1, 2, 2)))},
        ),
        (
            "bench",
            ["--adapter", "d2st", "--adapter.spatial", "2,4,4", "1,2,2", "--adapter.temporal-embedding", "no"],
            {"adapter": D2STConfig(spatial=((2, 4, 4), (1, 2, 2)), temporal_embedding=False)},
        ),
        ("predict", ["--query", "q", "--text.names", "001"], {"text": TextConfig(names="001")}),
        ("predict", ["--query", "q", "--head", "trx", "--head.cardinalities", "2"], {
            "head": HeadSpec("trx", {"cardinalities": (2,)})
        }),
    ],
)  # fmt: skip
def test_flags_are_taken_as_typed(command, arguments, expected):
    config = read(command, *arguments)
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("predict", ["--query", "-x.mp4"], "--query=-x.mp4"),
        ("predict", ["--query"], "--query needs a value"),
        ("predict", ["--query", "--top", "3"], "--query needs a value"),
        ("predict", ["--query", "q", "--topp", "3"], r"--topp is not a setting of d2st predict. Did you mean --top\?"),
        ("predict", ["q"], "'q' belongs to no flag"),
        ("predict", ["--query", "q", "-x"], "-x is no flag|--query=-x"),
        ("spot", ["sup"], "SUPPORT VIDEO"),
        ("spot", ["a", "b", "c"], "SUPPORT VIDEO"),
        ("spot", ["--support", "s", "--video", "v", "x"], "no more words"),
        ("train", ["--config=--", "--data", "x"], "--config=-- gives --config no value"),
        ("predict", ["--query=--"], "--query=-- gives --query no value"),
        ("train", [], "--data must be given"),
        ("train", ["--data", "x", "--adapter", "dst2"], "neither a system"),
        ("train", ["--data", "x", "--adapter", ""], "--adapter '' is neither a system"),
        ("train", ["--data", "x", "--adapter", "x" * 5000], "neither a system"),
        ("train", ["--data", "x", "--adapter", "none", "--adapter.ratio", "1"], "--adapter.ratio is not a setting"),
        ("train", ["--data", "x", "--text", "y"], "settings by name"),
        ("train", ["--data", "x", "--seed", "2020-99-99"], "seed='2020-99-99' must be a whole number"),
        ("train", ["--data", "x", "--lr", "-1"], r"lr=-1\.0 must be a number of at least 0"),
        ("train", ["--data", "x", "--lr", ".nan"], "lr=nan must be a finite number"),
        ("train", ["--data", "x", "--head.dropout", "9", "--head", "trx"], "dropout=9.0 must be"),
        ("bench", ["--adapter", "some/one"], "A saved adapter is not taken here"),
        ("eval", ["--data", "x", "--adapter", "a/b", "--adapter.ratio", "1"], "leave out --adapter.ratio"),
    ],
)
def test_flags_that_cannot_be_used_are_a_sentence(command, arguments, said):
    with pytest.raises(D2STError, match=said):
        read(command, *arguments)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adapter: st", {"adapter": STConfig()}),
        ("adapter: {name: st, width: 8}", {"adapter": STConfig(width=8)}),
        ("adapter.name: st\nadapter.width: 8", {"adapter": STConfig(width=8)}),
        ("adapter: runs/best", {"adapter_path": "runs/best", "adapter": NoneConfig()}),
        ("adapter: null", {"adapter": NoneConfig(), "adapter_path": None}),
        ("head: null", {"head": None}),
        ("head: trx", {"head": HeadSpec("trx")}),
        ("head: {name: trx, dropout: 0}", {"head": HeadSpec("trx", {"dropout": 0.0})}),
        ("text: null", {"text": TextConfig()}),
        ("text: {names: 001}", {"text": TextConfig(names="001")}),
        ("support: 001", {"support": "001"}),
        ("support: yes\nout: 1.50\nweights: null", {"support": "yes", "out": "1.50", "weights": None}),
        ("query: [001, 'null', 2024-05-01]", {"query": ("001", "null", "2024-05-01")}),
        ("image-size: 64\nreject_rate: 1e-3", {"image_size": 64, "reject_rate": 1e-3}),
        ('{"query": "a", "head": null, "adapter": {"name": "none"}}', {"query": "a", "head": None}),
    ],
)
def test_a_file_takes_what_flags_take(written, text, expected):
    query = [] if "query" in text else ["--query", "q"]
    config = read("predict", "--config", written(text), *query)
    assert {key: getattr(config, key) for key in expected} == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("adapter: nonsense", "'adapter' in .*run.yaml 'nonsense' is neither a system"),
        ("adapter: [st]", r"takes a name, or name: and settings, not \['st'\]"),
        ("adapter: {name: st, ratio: x}", "STConfig: ratio='x' must be a number"),
        (
            "adapter: {name: st, widht: 3}",
            r"\(adapter.widht\) is not a setting.* Did you mean adapter.width",
        ),
        ("adapter: {name: [st]}", "is not one of none, full"),
        ("head: 5", "no head named '5'"),
        ("head: [trx]", "takes a name, or name: and options"),
        ("head: {name: trx, dropout: 9}", "dropout=9.0 must be"),
        ("head: {dropout: 9}", r"\(head.dropout\) is not a setting"),
        ("text: raw", "takes settings by name"),
        ("top: null", "top=None must be a whole number"),
        ("top: {a: 1}", "top={'a': '1'} must be"),
        ("top: 99999999999999999999999", "top=99999999999999999999999 must be"),
        ("workers: 1.5", "workers='1.5' must be a whole number from 0"),
        ("frames: -3", "frames=-3 must be"),
        ("frames: 0", "frames=0 must be"),
        ("frames: 1000000000", "from 1 to 4096"),
        ("precision: bfloat16", "Did you mean 'bf16'"),
        ("reject_rate: .nan", "reject_rate=nan must be a finite number"),
        ("nosuch: 1", "'nosuch' in .*run.yaml is not a setting"),
        ("top: 1\ntop: 2", "the key 'top' twice"),
        ("- a", "name: value"),
        ("", "name: value"),
        ("a: [", "cannot be read as YAML"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence(written, text, said):
    with pytest.raises(D2STError, match=said):
        read("predict", "--query", "q", "--config", written(text))


def test_flags_override_files_wherever_they_stand(written):
    one = written("top: 1\nadapter: {name: d2st, ratio: 0.5}\nhead: {name: otam, smoothing: 0.2}\n", "one.yaml")
    two = written("top: 2\nadapter: {temporal_embedding: false}\n", "two.yaml")
    files = ["--config", one, "--config", two]
    for arguments in ([*files, "--top", "5"], ["--top", "5", *files]):
        config = read("predict", "--query", "q", *arguments)
        assert config.top == 5 and config.head == HeadSpec("otam", {"smoothing": 0.2})
        assert config.adapter == D2STConfig(ratio=0.5, temporal_embedding=False)
    assert read("predict", "--query", "q", *files).top == 2
    assert read("predict", "--query", "q", *files, "--adapter", "st").adapter == STConfig()
    assert read("predict", "--query", "q", *files, "--head", "bi-mhm").head == HeadSpec("bi-mhm")
    assert read("predict", "--query", "q", *files, "--head", "null").head is None
    saved = read("predict", "--query", "q", *files, "--adapter", "a/b")
    assert (saved.adapter_path, saved.adapter) == ("a/b", NoneConfig())
    path = written("adapter: a/b\n", "three.yaml")
    fresh = read("predict", "--query", "q", "--config", path, "--adapter", "st")
    assert (fresh.adapter_path, fresh.adapter) == (None, STConfig())
    with pytest.raises(D2STError, match="leave out --adapter"):
        read("predict", "--query", "q", "--config", path, "--adapter.ratio", "0.5")


def test_a_saved_adapter_stays_until_a_system_is_named(written):
    path = written("adapter_path: a/b\n", "path.yaml")
    own = written("adapter: {ratio: 0.5}\n", "own.yaml")
    with pytest.raises(D2STError, match=r"A saved adapter has its own settings: leave out 'adapter' in .*own.yaml"):
        read("predict", "--query", "q", "--config", path, "--config", own)
    with pytest.raises(D2STError, match=r"leave out 'adapter' in .*both.yaml"):
        read("predict", "--query", "q", "--config", written("adapter_path: a/b\nadapter: {ratio: 0.5}\n", "both.yaml"))
    named = written("adapter: {name: st, ratio: 0.5}\n", "named.yaml")
    fresh = read("predict", "--query", "q", "--config", path, "--config", named)
    assert (fresh.adapter_path, fresh.adapter) == (None, STConfig(ratio=0.5))
    kept = read("predict", "--query", "q", "--config", named, "--adapter-path", "null")
    assert (kept.adapter_path, kept.adapter) == (None, STConfig(ratio=0.5))


def test_the_default_system_named_keeps_what_a_file_says_of_it(written):
    file = written("adapter: {ratio: 0.5}\nhead: {cosine: eps}\ndata: x\n")
    config = read("train", "--config", file, "--adapter", "d2st-local", "--head", "bi-mhm")
    assert config.adapter == D2STLocalConfig(ratio=0.5) and config.head == HeadSpec("bi-mhm", {"cosine": "eps"})


def test_files_and_flags_say_whether_it_is_a_classifier(written, tmp_path):
    linear, trx = written("head: linear\n", "linear.yaml"), written("head: {name: trx}\n", "trx.yaml")
    (tmp_path / "classifier_config.json").write_text("{}")
    for arguments, expected in (
        (["--head", "linear"], True),
        (["--head=trx"], False),
        (["--config", linear], True),
        (["--head", "trx", "--config", linear], False),
        (["--head", "linear", "--config", trx], True),
        (["--adapter", tmp_path], is_classifier(tmp_path)),
        (["--adapter", tmp_path, "--support", "x"], False),
        (["--config", written(f"adapter: {tmp_path}\n", "path.yaml")], is_classifier(tmp_path)),
        (["--config", written("head: null\n", "null.yaml")], False),
    ):
        assert asks_for_classifier([str(word) for word in arguments]) == expected, arguments


def required(cls):
    return {field.name: "001" for field in dataclasses.fields(cls) if field.default is field.default_factory}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_print_config_prints_is_read_back_to_the_same(command, written):
    cls = CLASSES[command]
    hints = hints_of(cls)
    variants = [{}]
    if "adapter" in hints:
        variants += [{"adapter": D2STConfig(spatial=((2, 4, 4), (1, 2, 2)), positions="late", groups=4)}]
    if "adapter_path" in hints:
        variants += [{"adapter_path": "null"}]
    if HeadSpec in getattr(hints.get("head"), "__args__", ()):
        variants += [{"head": HeadSpec("trx", {"cardinalities": (2, 3)})}]
    for more in variants:
        made = cls(**required(cls) | more)
        text = config_text(made)
        assert read(command, "--config", written(text)) == made, text
        run = written(json.dumps(config_dict(made)), "config.json")
        assert read(command, "--config", run) == made, "the config.json of a run is a config too"


@pytest.mark.parametrize("command", COMMANDS)
def test_any_value_of_any_setting_is_taken_or_refused_with_a_sentence(command, written):
    """From Python, and from YAML: whatever stands there, there is a config or a D2STError."""
    cls = CLASSES[command]
    wrong = [None, True, -1, 0, 10**30, 0.5, float("nan"), float("-inf"), "", "x", "2020-99-99", b"x", [], ["x"], {}]
    wrong += [{"name": "st", "ratio": "x"}, {"name": []}, [[1]], object(), "null", "1,2", "[1", "~"]
    draw = random.Random(0)
    accepted = 0
    for field in dataclasses.fields(cls):
        for value in wrong:
            try:
                cls(**{**required(cls), field.name: value})
                accepted += 1
            except D2STError as error:
                assert len(str(error)) < 600
        for value in draw.sample([v for v in wrong if not isinstance(v, bytes) and type(v) is not object], 6):
            try:
                read(command, "--config", written({**required(cls), field.name: value}))
            except D2STError as error:
                assert len(str(error)) < 700
    assert accepted


def test_options_of_heads_are_refused_where_a_head_is_named():
    for name in heads.HEADS:
        for option in heads.options_of(name):
            for value in (float("nan"), -1e9, "x", [], {}, object(), 10**30):
                try:
                    HeadSpec(name, {option: value})
                except D2STError as error:
                    assert f"'{name}'" in str(error)
