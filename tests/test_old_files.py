"""Files that earlier versions made are loaded, and give the numbers that those versions computed.

``data/old/make.py`` made them with the code of the commits that the folders are named after, and says how.
"""

import importlib
import json
import shutil
import tomllib
from pathlib import Path

import old_models
import pytest
import torch
import yaml
from safetensors.torch import load_file

import d2st
from d2st.adapter_file import config_from_dict

ROOT = Path(__file__).parent.parent
OLD = Path(__file__).parent / "data" / "old"
COMMITS = ("65bbc7b", "6784166")
EXPECTED = {commit: json.loads((OLD / commit / "expected.json").read_text("utf-8")) for commit in COMMITS}
CONFIGS = [(commit, file.stem) for commit in COMMITS for file in sorted((OLD / commit / "configs").iterdir())]


def main(argv: list[str]) -> int:
    """Run the command line in this process, wherever its function lies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, _, function = project["scripts"]["d2st"].partition(":")
    return getattr(importlib.import_module(module), function)(argv)


def about(value):
    """Compare with what another version of torch may compute."""
    if value is None or isinstance(value, str):
        return value
    return pytest.approx(value, rel=1e-4, abs=1e-6)


def cases(kind):
    """Name every commit with every name that it has results for."""
    return [(commit, name) for commit in COMMITS for name in EXPECTED[commit][kind]]


@pytest.fixture
def run(capfd):
    """A function that runs a command in this process and gives what it prints, or what it says of an error."""

    def run(*argv: object, code: int = 0) -> str:
        capfd.readouterr()
        try:
            found = main([str(argument) for argument in argv])
        except SystemExit as end:  # after --print-config
            found = end.code or 0
        printed = capfd.readouterr()
        assert found == code, printed.err
        return printed.err if code else printed.out

    return run


@pytest.fixture(params=COMMITS)
def old(request, tmp_path, monkeypatch):
    """The files of a commit and what it computed; the folder worked in is a copy, as paths of old runs are relative."""
    monkeypatch.chdir(tmp_path)
    for name in ("store", "split.yaml", "lists"):
        copy(OLD / name, tmp_path / name)
    copy(OLD / request.param, tmp_path / request.param)
    return Path(request.param), EXPECTED[request.param]


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


@pytest.mark.parametrize(("commit", "name"), cases("adapters"))
def test_adapters_give_the_same_features(commit, name):
    expected = EXPECTED[commit]["adapters"][name]
    encoder = d2st.load(OLD / commit / "adapters" / name, backbone=old_models.backbone(**expected["backbone"]))
    assert encoder.config.name == name and encoder.frames == expected["frames"]
    with torch.no_grad():
        features = encoder(old_models.clip(frames=expected["frames"])[None])
    assert list(features.shape) == expected["shape"]
    assert old_models.numbers(features) == about(expected["numbers"])


@pytest.mark.parametrize(("commit", "name"), cases("heads"))
def test_heads_and_supports_give_the_same_answers(commit, name):
    expected, folder = EXPECTED[commit]["heads"][name], OLD / commit / "heads" / name
    classifier = d2st.FewShotClassifier.from_pretrained(folder, backbone=old_models.backbone(width=8))
    assert classifier.head.spec.name == name
    assert set(classifier.classes) == set(expected["logits"])
    prediction = classifier.predict(old_models.clip(9))
    assert prediction.label == expected["label"]
    assert dict(prediction.logits) == about(expected["logits"])


@pytest.mark.parametrize("commit", COMMITS)
def test_a_support_file_alone_is_loaded(commit):
    folder = OLD / commit / "heads" / "bi-mhm"
    encoder = d2st.load(folder, backbone=old_models.backbone(width=8))
    classifier = d2st.FewShotClassifier(encoder, "bi-mhm").load_support(folder / "support.safetensors")
    assert classifier.predict(old_models.clip(9)).label == EXPECTED[commit]["heads"]["bi-mhm"]["label"]


@pytest.mark.parametrize("commit", COMMITS)
def test_a_video_classifier_gives_the_same_logits(commit):
    expected = EXPECTED[commit]["classifier"]
    model = d2st.VideoClassifier.from_pretrained(OLD / commit / "classifier", backbone=old_models.backbone())
    assert list(model.names) == expected["names"]
    assert (model.sampling, model.stride) == (expected["sampling"], expected["stride"])
    with torch.no_grad():
        assert model(old_models.clip()[None])[0].tolist() == about(expected["logits"])


def test_interrupted_runs_end_as_they_would_have(old, run):
    folder, expected = old
    for name, more in (("train", ()), ("linear", ("--head", "linear"))):
        out = folder / "runs" / name
        wanted, flags = expected["runs"][name], folder / "runs" / f"{name}.yaml"
        flags.write_text((out / "config.json").read_text())
        printed = run("train", *more, "--config", flags)
        assert "resum" in printed.lower() or "goes on" in printed.lower(), printed
        metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [sorted(line) for line in metrics] == [sorted(line) for line in wanted["metrics"]]
        for line, there in zip(metrics, wanted["metrics"], strict=True):
            assert line == about(there)
        result = json.loads((out / "train.json").read_text())
        assert {key: result[key] for key in wanted["best"]} == about(wanted["best"])
        final = {
            f"{file.name}/{key}": old_models.numbers(tensor, 4)
            for file in sorted((out / "final").glob("*.safetensors"))
            for key, tensor in load_file(file).items()
        }
        assert final.keys() == wanted["final"].keys()
        for key, values in final.items():
            assert values == pytest.approx(wanted["final"][key], rel=1e-3, abs=1e-5), key


def test_an_old_run_does_not_go_on_with_other_settings(old, run):
    folder, _ = old
    config = json.loads((folder / "runs" / "train" / "config.json").read_text())
    flags = folder / "train.yaml"
    flags.write_text(json.dumps(config | {"lr": 0.006}))
    assert "lr is 0.003 there and 0.006 here" in run("train", "--config", flags, code=2)


def test_an_old_run_does_not_go_on_with_other_clips(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("store", "split.yaml"):
        copy(OLD / name, Path(name))
    copy(OLD / "6784166" / "runs" / "train", Path("run"))
    split = yaml.safe_load(Path("split.yaml").read_text())
    split["train"].append(split["test"].pop())
    Path("split.yaml").write_text(yaml.safe_dump(split))
    printed = run("train", "--config", "run/config.json", "--out", "run", code=2)
    assert "the classes 'teal' are in one of them alone" in printed


def test_an_evaluation_beside_an_old_one_and_its_cache_comes_to_the_same(old, run):
    folder, expected = old
    asked = ["eval", "--data", "store", "--split", "split.yaml", "--device", "cpu", "--seed", "5"]
    run(
        *asked,
        "--way",
        "2",
        "--shot",
        "1,2",
        "--episodes",
        "200",
        "--adapter",
        folder / "saved",
        "--out",
        folder / "eval",
    )
    results = json.loads((folder / "eval" / "eval.json").read_text())["results"]
    assert len(results) == len(expected["eval"])
    for one, there in zip(results, expected["eval"], strict=True):
        assert {key: one[key] for key in there} == about(there)


def test_bench_draws_old_results(old, run):
    folder, _ = old
    model = ["--backbone", "d2st_stills", "--image-size", "32", "--frames", "4", "--adapters", "none"]
    run("bench", *model, "--repeats", "0", "--device", "cpu", "--results", folder / "eval", "--out", folder / "bench")
    assert (folder / "bench" / "accuracy.png").stat().st_size > 1000


def test_a_table_is_filled_from_old_results(old, run):
    folder, expected = old
    out = folder / "reproduce"
    run("reproduce", "4/D2ST-Adapter/SSv2-Full", "--data", "store", "--out", out)
    cells = json.loads((out / "table4.json").read_text())["cells"]
    assert len(cells) == len(expected["reproduced"]) > 0
    for cell, there in zip(cells, expected["reproduced"], strict=True):
        for key, value in there.items():
            assert cell[key] == about(value), key


def test_a_saved_recognizer_and_its_calibration_give_the_same_answer(old, run):
    folder, expected = old
    saved, wanted = folder / "saved", expected["predict"]
    old_models.write_video(Path("query/q.avi"), old_models.COLORS["pink"], 77)
    old_models.write_videos(Path("support"), ["pink", "teal"], 1)
    asked = ["predict", "--query", "query/q.avi", "--device", "cpu", "--format", "jsonl", "--reject-rate", "0.2"]
    copy(saved, Path("plain"))
    Path("plain/calibration.json").rename("calibration.json")
    for own in (
        ["--classifier", saved],
        ["--support", "support", "--adapter", saved],
        ["--support", saved / "support.safetensors", "--adapter", "plain", "--calibration", "calibration.json"],
    ):
        found = json.loads(run(*asked, *own))
        for key in ("clip", "label", "answer", "unknown"):
            assert found[key] == wanted[key], (own, key)
        for key in ("scores", "logits", "confidence"):
            assert found[key] == about(wanted[key]), (own, key)


def test_a_trained_classifier_gives_the_same_answer(old, run):
    folder, expected = old
    old_models.write_video(Path("query/q.avi"), old_models.COLORS["pink"], 77)
    asked = ["predict", "--query", "query/q.avi", "--device", "cpu", "--format", "jsonl"]
    found = json.loads(run(*asked, "--head", "linear", "--adapter", folder / "runs" / "linear" / "best"))
    assert found["scores"] == about(expected["linear"]["scores"])


def test_stores_and_shards_are_read(run, tmp_path, monkeypatch):
    monkeypatch.chdir(OLD)
    old_models.write_video(tmp_path / "q.avi", old_models.COLORS["pink"], 77)
    classifier = d2st.FewShotClassifier.from_pretrained("6784166/saved")
    for data, expected in EXPECTED["6784166"]["stores"].items():
        classifier.fit(data)
        assert set(classifier.classes) == set(expected["logits"])
        prediction = classifier.predict(tmp_path / "q.avi")
        assert prediction.label == expected["label"]
        assert dict(prediction.logits) == about(expected["logits"])
    run("check-data", "split.yaml", "store", "--way", "2")


@pytest.mark.parametrize(("commit", "name"), CONFIGS)
def test_printed_configs_are_read_back_to_the_same(commit, name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy(OLD / commit / "saved", tmp_path / "adapter")
    copy(OLD / commit / "runs" / "linear" / "best", tmp_path / "linear")
    file = OLD / commit / "configs" / f"{name}.yaml"
    command = name.removesuffix("-aim").removesuffix("-linear")
    then = yaml.safe_load(file.read_text())
    if name == "spot":  # settings that it has no more
        then = {key: value for key, value in then.items() if key != "contrast" and (key, value) != ("gap", None)}
    now = yaml.safe_load(run(command, "--config", file, "--print-config"))
    if isinstance(now.get("adapter"), dict) and isinstance(then.get("adapter"), dict):
        defaults = config_from_dict({"name": then["adapter"]["name"]}).to_dict()
        later = now["adapter"].keys() - then["adapter"].keys()  # options that came later have their defaults
        assert {key: now["adapter"].pop(key) for key in later} == {key: defaults[key] for key in later}
    assert {key: now.get(key, "absent") for key in then} == then
