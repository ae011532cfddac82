"""K clips of each class by seed, base and novel classes, and the classifier by names, on a small CLIP."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small
import small_clip
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import d2st
from d2st import D2STError, heads
from d2st.commands import cli
from d2st.commands.evaluate_base_novel import harmonic_mean
from d2st.data.base_novel import read_base_novel
from d2st.data.datasets import Clip, ClipSet, open_division
from d2st.data.shots import draw_shots, write_clip_list

BASE, NOVEL = ["red", "blue", "white"], ["teal", "sand"]
NAMES = ("wave", "Removing something, revealing something", 'say "hi"')


def clips_of(*counts: int, seed: int = 0) -> ClipSet:
    """Clips of classes, so many of each, under names that a list has to quote."""
    found = [Clip(Path(f"{i}"), c, f"{NAMES[c]}/{seed} {i}, a.mp4") for c, n in enumerate(counts) for i in range(n)]
    return ClipSet(NAMES[: len(counts)], tuple(found))


@given(st.lists(st.integers(4, 9), min_size=1, max_size=3), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_a_draw_has_k_clips_of_each_class_and_depends_on_nothing_else(counts, shots, seed):
    clips = clips_of(*counts)
    drawn = draw_shots(clips, shots, seed)
    assert [len(own) for own in drawn.by_class] == [shots] * len(counts) and drawn.classes == clips.classes
    assert set(drawn.clips) <= set(clips.clips)
    assert set(draw_shots(clips, max(1, shots - 1), seed).clips) <= set(drawn.clips)
    last = len(counts) - 1  # of a class alone, in another order
    alone = replace(clips, clips=tuple(clip for clip in reversed(clips.clips) if clip.label == last))
    if last == 0:
        assert set(draw_shots(alone, shots, seed).clips) == set(drawn.clips)
    else:
        with pytest.raises(D2STError, match="has 0 for training"):
            draw_shots(alone, shots, seed)


def test_seeds_draw_differently_and_each_clip_as_often():
    clips = clips_of(6, 6)
    draws = [tuple(clip.id for clip in draw_shots(clips, 2, seed).clips) for seed in range(300)]
    assert len(set(draws)) > 100
    times = [sum(clip.id in drawn for drawn in draws) for clip in clips.clips]
    assert min(times) > 60 and max(times) < 140  # 100 on average
    assert draws[1] == draws[1] == tuple(clip.id for clip in draw_shots(clips, 2, 1).clips)


def test_the_draw_is_the_documented_one():
    """Whoever has the ids and the seed gets the clips without this package."""
    import hashlib

    clips = clips_of(5)
    ids = sorted((clip.id for clip in clips.clips), key=lambda id: hashlib.sha256(f"7 {id}".encode()).hexdigest())
    assert {clip.id for clip in draw_shots(clips, 3, 7).clips} == set(ids[:3])


def test_a_class_with_too_few_clips_is_refused():
    with pytest.raises(D2STError, match=r"shots=3 .* class 'wave' has 2 for training; draw fewer"):
        draw_shots(clips_of(2, 3), 3, 0)
    with pytest.raises(D2STError, match="2 classes have too few"):
        draw_shots(clips_of(2, 3), 4, 0)


def test_the_list_of_a_draw_is_a_split(tmp_path):
    names = ["wave, wide", 'say "hi"']
    for name in names:
        for n in range(4):
            (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "data" / name / f"{n}, a.mp4").touch()
    drawn = draw_shots(open_division(tmp_path / "data"), 2, 5)
    write_clip_list(drawn, tmp_path / "shots.csv")
    again = open_division(tmp_path / "data", tmp_path / "shots.csv")
    assert again.classes == drawn.classes
    assert [(clip.id, clip.label) for clip in again.clips] == [(clip.id, clip.label) for clip in drawn.clips]


def test_clips_of_some_classes_are_renumbered():
    clips = clips_of(2, 1, 3)
    own = clips.of_classes([NAMES[2], NAMES[0]])
    assert own.classes == (NAMES[2], NAMES[0]) and own.labels.tolist() == [0, 0, 0, 1, 1]
    assert [clip.id for clip in own.clips] == [clip.id for clip in (*clips.clips[3:], *clips.clips[:2])]
    with pytest.raises(D2STError, match="no class 'jump' among 'wave'"):
        clips.of_classes(["jump"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"base": ["a", "b"]}, "keys base and novel"),
        ({"base": ["a", "b"], "novel": ["c"]}, "novel must list the names of two classes or more"),
        ({"base": ["a", "b"], "novel": "c"}, "novel must list"),
        ({"base": ["a", "b"], "novel": ["c", "b"]}, "'b' twice; a class is base or novel"),
        (["a"], "keys base and novel"),
    ],
)
def test_a_division_of_classes_that_cannot_be_used_is_refused(tmp_path, content, said):
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(D2STError, match=said):
        read_base_novel(tmp_path / "classes.yaml")
    with pytest.raises(D2STError, match="cannot be read"):
        read_base_novel(tmp_path / "none.yaml")


def test_the_harmonic_mean():
    assert harmonic_mean(0.75, 0.5) == pytest.approx(0.6) and harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(None, 0.5) is None


def adapted() -> d2st.VideoEncoder:
    """An encoder with random weights and a projection of 256 to 12."""
    torch.manual_seed(0)
    return d2st.adapt(small_clip.BACKBONE, d2st.VanillaConfig(), frames=2, pretrained=False, image_size=32)


def test_it_answers_as_the_zero_shot_head():
    model, text, projection = adapted(), torch.randn(3, 12), nn.Linear(256, 12)
    classifier = d2st.VideoClassifier(model, text, ["a", "b", "c"], projection=projection).eval()
    video = torch.randn(4, 2, 3, 32, 32)
    head = heads.build("zero-shot", features=256, joint=12)
    head.projection.set(projection)
    with torch.no_grad():
        frames = model(video)
        expected = head(frames[:0], torch.empty(0, dtype=torch.long), frames, text=text)
        torch.testing.assert_close(classifier(video), expected)
    assert {id(p) for p in classifier.trainable_parameters()} == {id(p) for p in model.trainable_parameters()}
    assert classifier.double()(video.double()).dtype == torch.float64


def test_other_classes_share_the_encoder():
    classifier = d2st.VideoClassifier(
        adapted(), torch.randn(3, 12), ["a", "b", "c"], "stride", 2, projection=nn.Linear(256, 12)
    )
    text = torch.randn(2, 12)
    other = classifier.with_classes(["d", "e"], text)
    assert other.encoder is classifier.encoder and (other.names, other.sampling, other.stride) == (
        ("d", "e"),
        "stride",
        2,
    )
    both = classifier.with_classes(["a", "b", "c", "d", "e"], torch.cat([classifier.head.text, text])).eval()
    video = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        logits = torch.cat([classifier.eval()(video), other.eval()(video)], 1)
        torch.testing.assert_close(both(video), logits)


def test_classifiers_by_names_that_cannot_be_are_refused():
    model, projection = adapted(), nn.Linear(256, 12)
    with pytest.raises(D2STError, match=r"\(classes, 12\), not \(3, 7\)"):
        d2st.VideoClassifier(model, torch.randn(3, 7), projection=projection)
    with pytest.raises(D2STError, match=r"\(classes, 256\), not \(3, 12\)"):
        d2st.VideoClassifier(model, torch.randn(3, 12))
    with pytest.raises(D2STError, match="a projection goes with features"):
        d2st.VideoClassifier(model, 3, projection=projection)
    with pytest.raises(D2STError, match="knows no others"):
        d2st.VideoClassifier(model, 3).with_classes(["a", "b"], torch.randn(2, 12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Clips of colors, a division of their clips, one of their classes, and a small CLIP."""
    folder = small.write_dataset(tmp_path_factory.mktemp("data"))
    (folder / "shares.yaml").write_text(yaml.safe_dump({"train": "60%", "test": "40%"}))
    everything = sorted(path.name for path in (folder / "data").iterdir())
    novel = NOVEL + [name for name in everything if name not in BASE + NOVEL]
    (folder / "classes.yaml").write_text(yaml.safe_dump({"base": BASE, "novel": novel}))
    small_clip.write_clip(folder)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def where(folder: Path) -> list[str]:
    """Flags of the data and of CLIP's weights."""
    clip = str(folder / "clip.safetensors")
    flags = ["--data", str(folder / "data"), "--split", str(folder / "shares.yaml"), "--device", "cpu"]
    return [*flags, "--weights", clip]


def training(folder: Path, out: Path, *more: str) -> list[str]:
    """A short run as arguments."""
    flags = ["--backbone", small_clip.BACKBONE, "--image-size", "32", "--frames", "2", "--adapter", "vanilla"]
    flags += ["--text.model", "small", "--text.weights", str(folder / "clip.safetensors"), "--text.names", "clean"]
    flags += ["--text.templates", "a video of {}.", "--epochs", "2", "--clips-per-step", "6", "--batch-size", "6"]
    flags += ["--warmup-epochs", "0", "--lr", "1e-3", "--validate-every", "0", "--head", "text", "--out", str(out)]
    return ["train-classifier", *where(folder), *flags, *more]


def train(folder: Path, out: Path, *more: str) -> dict:
    """A short run; what its train.json says."""
    assert cli.main(training(folder, out, *more)) == 0
    return json.loads((out / "train.json").read_text())


def test_k_shots_of_all_classes_from_end_to_end(folder, tmp_path, monkeypatch, capsys):
    """Each seed draws its list, which is written down, and its run is tested on the whole part test."""
    lists = []
    for seed in ("1", "2"):
        run = tmp_path / seed
        trained = train(folder, run, "--shots", "2", "--seed", seed)
        assert (trained["clips"], trained["classes"], trained["head"]) == (18, 9, "text")
        encoder = d2st.load(run / "best", weights=folder / "clip.safetensors")
        assert trained["trainable_parameters"] == sum(p.numel() for p in encoder.trainable_parameters())
        lists.append((run / "shots.csv").read_text())
        listed = open_division(folder / "data", run / "shots.csv")
        drawn = draw_shots(open_division(folder / "data", folder / "shares.yaml"), 2, int(seed))
        assert [clip.id for clip in listed.clips] == [clip.id for clip in drawn.clips]
        flags = ["--adapter", str(run / "best"), "--out", str(run)]
        assert cli.main(["eval-classifier", *where(folder), *flags]) == 0
        found = json.loads((run / "eval.json").read_text())
        assert (found["part"], found["clips"], found["head"]) == ("test", 18, "text")
    assert lists[0] != lists[1]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["seeds.py", *(str(tmp_path / seed) for seed in "12")])
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "seeds.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith("accuracy: ")
    # What is saved answers as what was trained, without a text tower.
    model = d2st.VideoClassifier.from_pretrained(tmp_path / "1" / "best", weights=folder / "clip.safetensors")
    told = heads.TextConfig("small", str(folder / "clip.safetensors"), "clean", "a video of {}.")
    assert model.text == replace(told, weights=None)
    torch.testing.assert_close(model.head.text, d2st.text.encode_names(model.names, config=told))
    # A run goes on with its own clips alone, and one without shots leaves no list of another behind.
    assert cli.main(training(folder, tmp_path / "1", "--seed", "1", "--shots", "1")) == 2
    assert "shots is 2 there and 1 here" in capsys.readouterr().err
    train(folder, tmp_path / "1", "--overwrite", "--epochs", "1")
    assert not (tmp_path / "1" / "shots.csv").exists()


def test_base_to_novel_from_end_to_end(folder, tmp_path, capsys):
    classes = ["--base-novel", str(folder / "classes.yaml")]
    trained = train(folder, tmp_path, *classes, "--shots", "2")
    assert (trained["clips"], trained["classes"]) == (6, 3)
    evaluate = ["eval-base-novel", *where(folder), "--adapter", str(tmp_path / "best"), *classes]
    told = ["--text.weights", str(folder / "clip.safetensors"), "--out", str(tmp_path)]
    assert cli.main([*evaluate, *told]) == 0
    found = json.loads((tmp_path / "eval.json").read_text())
    assert (found["base"]["clips"], found["novel"]["clips"]) == (6, 12)
    assert list(found["base"]["per_class"]) == sorted(BASE) and found["novel"]["per_class"].keys().isdisjoint(BASE)
    accuracies = []
    for kind in ("base", "novel"):
        answers = [json.loads(line) for line in (tmp_path / f"{kind}.jsonl").read_text().splitlines()]
        names = found[kind]["per_class"]
        assert all(answer["class"] in names and answer["top"].keys() <= names.keys() for answer in answers)
        right = [max(answer["top"], key=answer["top"].get) == answer["class"] for answer in answers]
        accuracies.append(sum(right) / len(right))
        assert found[kind]["results"][0]["accuracy"] == pytest.approx(accuracies[-1])
    assert found["harmonic_mean"] == pytest.approx(harmonic_mean(*accuracies))
    capsys.readouterr()
    assert cli.main([*evaluate[:-2], *told]) == 2
    assert "--base-novel FILE" in capsys.readouterr().err
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"base": NOVEL, "novel": BASE}))
    assert cli.main([*evaluate[:-1], str(other), *told]) == 2
    assert "knows 3 classes that are not the 2 base classes" in capsys.readouterr().err


def test_a_validation_part_without_base_classes_is_told(folder, tmp_path, capsys):
    lists = {"train": BASE, "val": NOVEL[:1]}
    for part, names in lists.items():
        (tmp_path / f"{part}.txt").write_text("".join(f"{name}/{i}.mp4 {name}\n" for name in names for i in range(2)))
    (tmp_path / "lists.yaml").write_text(yaml.safe_dump({part: f"{part}.txt" for part in lists}))
    told = ["--split", str(tmp_path / "lists.yaml"), "--base-novel", str(folder / "classes.yaml")]
    train(folder, tmp_path / "run", *told, "--validate-every", "1", "--epochs", "1")
    assert (
        "No validation, the last model will be the best: the part val has no clips of base" in capsys.readouterr().out
    )
    flags = ["--adapter", str(tmp_path / "run" / "best"), "--out", str(tmp_path / "run"), "--part", "train"]
    told += ["--text.weights", str(folder / "clip.safetensors")]
    assert cli.main(["eval-base-novel", *where(folder), *told, *flags]) == 0
    found = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert (found["base"]["clips"], found["novel"]["clips"], found["harmonic_mean"]) == (6, 0, None)
    assert (tmp_path / "run" / "novel.jsonl").read_bytes() == b""


def test_settings_that_cannot_be_are_refused(folder, tmp_path, capsys):
    model = ["--backbone", small_clip.BACKBONE, "--image-size", "32", "--frames", "2", "--out", str(tmp_path / "run")]
    told = ["--text.model", "small", "--text.weights", str(folder / "clip.safetensors")]
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"base": ["red", "rde"], "novel": sorted(set(small._COLORS) - {"red"})}))
    for more, said in (
        (["--head", "text", *told, "--adapter", "none"], "has nothing to train, and neither has a classifier by names"),
        (["--shots", "4"], "shots=4 clips of each class are to be drawn"),
        (["--base-novel", str(other)], "the base classes 'rde' have no training clips"),
    ):
        assert cli.main(["train-classifier", *where(folder), *model, *more]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def _mean_over(monkeypatch, *folders) -> None:
    monkeypatch.setattr(sys, "argv", ["seeds.py", *map(str, folders)])
    runpy.run_path(str(Path(__file__).parent.parent / "examples" / "seeds.py"), run_name="__main__")


def test_the_mean_over_few_shot_trainings_is_of_each_head_and_shot(tmp_path, monkeypatch, capsys) -> None:
    for seed, accuracy in enumerate((0.5, 0.6, 0.7)):
        results = [{"head": "otam", "way": 5, "shot": shot, "accuracy": accuracy + shot / 100} for shot in (1, 5)]
        (tmp_path / str(seed)).mkdir()
        about = {"fingerprint": f"weights {seed}", "adapter": "d2st", "backbone": "vit", "part": "test"}
        written = json.dumps(about | {"results": results[: 2 if seed < 2 else 1]})
        (tmp_path / str(seed) / "eval.json").write_text(written)
    _mean_over(monkeypatch, tmp_path / "0", tmp_path / "1")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("otam, 5-way 1-shot: 56.00 ± 63.53 (51.00, 61.00)")
    assert second.startswith("otam, 5-way 5-shot: 60.00 ± 63.53 (55.00, 65.00)")
    shutil.copytree(tmp_path / "0", tmp_path / "copy")
    shutil.copytree(tmp_path / "1", tmp_path / "other")
    (tmp_path / "other" / "eval.json").write_text((tmp_path / "1" / "eval.json").read_text().replace('"d2st"', '"st"'))
    other = "more than their seeds: d2st, vit, test and st, vit, test. "
    for folders, said in (
        (("0", "other"), other),
        (("0", "copy"), "the same weights"),
        (("0", "2"), "different"),
        (("0", "none"), "eval.json"),
    ):
        with pytest.raises(SystemExit, match=said):
            _mean_over(monkeypatch, *(tmp_path / folder for folder in folders))


def test_the_mean_over_trainings_of_other_data_or_settings_is_refused(tmp_path, monkeypatch, capsys) -> None:
    results = [{"head": "otam", "way": 5, "shot": 1, "accuracy": 0.5}]
    for name, data, rate in (("0", "a", 0.1), ("1", "a", 0.1), ("2", "b", 0.1), ("3", "a", 0.2)):
        (tmp_path / name / "test").mkdir(parents=True)
        own = {"data": data, "seed": int(name), "adapter_path": str(tmp_path / name / "best")}
        about = {"fingerprint": name, "adapter": "st", "backbone": "vit", "part": "test", "config": own}
        (tmp_path / name / "test" / "eval.json").write_text(json.dumps(about | {"results": results}))
        (tmp_path / name / "train.json").write_text(json.dumps({"config": {"lr": rate, "seed": int(name)}}))
    _mean_over(monkeypatch, tmp_path / "0/test", tmp_path / "1/test")
    assert "50.00" in capsys.readouterr().out
    for other, said in (("2", "evaluation, data"), ("3", "training, lr")):
        with pytest.raises(SystemExit, match=f"differ by more than their seeds: {said}. Give"):
            _mean_over(monkeypatch, tmp_path / "0/test", tmp_path / other / "test")
