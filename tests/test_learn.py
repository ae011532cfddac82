"""``d2st learn`` from a folder of clips to a recognizer and its report."""

import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
from safetensors.torch import save_file
from small import FRAMES, SIDE, noisy, write_clip

import d2st
from d2st import D2STError
from d2st.backbones import build
from d2st.commands import learn as module
from d2st.commands import learn_clips, learn_models, learn_report, learn_trainings, learn_trials
from d2st.commands.learn import learn
from d2st.commands.options import LearnConfig, PredictConfig
from d2st.commands.predict import predict
from d2st.data import datasets
from d2st.data.video.errors import VideoError
from d2st.learning.folds import divide
from d2st.learning.groups import find_groups
from d2st.training.metrics import read_steps
from d2st.training.trainer import Trainer


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four classes of five clips, whose colors tell them apart."""
    folder, rng = tmp_path_factory.mktemp("learn") / "clips", np.random.default_rng(0)
    for name in ("blue", "green", "red", "white"):
        (folder / name).mkdir(parents=True)
        for n in range(5):
            write_clip(folder / name / f"{n}.mp4", noisy(rng, name, 8 + n))
    return folder


@pytest.fixture
def config(small, tmp_path):
    """Make a config for clips, on a small backbone."""

    def make(clips, **more):
        model = {"backbone": "test_resnet", "weights": str(small / "weights.safetensors"), "image_size": SIDE}
        own = {"out": str(tmp_path / "recognizer"), "frames": FRAMES, "train": False, "device": "cpu"}
        return LearnConfig(clips=str(clips), **model | own | more)

    return make


def test_from_a_folder_to_a_recognizer(clips, config, tmp_path, capsys):
    asked = config(clips)
    report = learn(asked)
    said = capsys.readouterr().out
    out = tmp_path / "recognizer"
    assert "20 clips of 4 classes, 5 of each.\nEvery clip is held out in turn." in said
    assert f"d2st predict --classifier {out}" in said and "Of 100 new clips like these" in said

    heads = {(row["model"], row["head"]) for row in report["candidates"]}
    assert heads == {("test_resnet, frozen", name) for name in learn_models.HEADS}
    expected = report["expected"]
    assert expected["clips"] == expected["groups"] == 20
    assert expected["low"] <= expected["mean"] <= expected["high"] and expected["mean"] > 0.6
    assert [point["shots"] for point in report["curve"]] == [1, 2, 3, 4]
    saved = json.loads((out / "report.json").read_text())
    assert saved["chosen"] == report["chosen"] and saved["config"]["seed"] == 0

    page = (out / "report.html").read_text()
    assert "What is mixed up" in page and "test_resnet, frozen" in page
    assert not re.search(r'(?:src|href)="(?!data:)', page) and "<script" not in page  # nothing from elsewhere

    used = {"classifier": str(out), "weights": asked.weights, "device": "cpu"}
    answers = predict(PredictConfig(query=str(clips / "red" / "0.mp4"), **used))
    assert answers["predictions"][0]["label"] == "red"
    assert report["use"] == f"d2st predict --classifier {out} --weights {asked.weights} --query NEW"
    assert report["command"].startswith(f"d2st learn {clips} --out {out} --minutes 15 --backbone test_resnet")

    assert "--image-size 32 --frames 4 --train false" in report["command"]
    assert report["command"].endswith("--device cpu --precision fp32")

    again = learn(asked)  # on the features that were kept
    assert again["expected"] == expected and again["candidates"] == report["candidates"]


def test_what_to_use_has_the_reject_rate_of_the_report(clips, config):
    assert module._kept_options(config(clips, reject_rate=0.2))[2:] == ["--reject-rate", "0.2"]


def listed(training, part):
    """The clips of a part of the split that a training was given."""
    lines = Path(training.split, f"{part}.csv").read_text().splitlines()
    return [line.split(",")[0] for line in lines[1:]]


def is_measured(training):
    """Whether a training is a short one, of which the time is taken."""
    return any(part.startswith(".pace.") for part in Path(training.out).parts)


def test_adapters_are_trained_on_the_other_folds_alone(clips, config, monkeypatch):
    monkeypatch.setattr(learn_trials, "EPISODES", (2, 2))
    monkeypatch.setattr(learn_trials, "EPISODE_STEP", 1)
    monkeypatch.setattr(learn_models, "TRAINED", {"st": learn_models.TRAINED["st"]})
    read = []
    real = learn_trainings.train

    def watched(training):
        if is_measured(training):
            return real(training)
        read.append(listed(training, "train"))
        return real(training)

    monkeypatch.setattr(learn_trainings, "train", watched)
    report = learn(config(clips, train=True))
    rows = [row for row in report["candidates"] if row["model"] == "test_resnet, st trained here"]
    assert rows and all(row["measured"]["clips"] == 20 for row in rows)
    folds = [set(ids) for ids in dict.fromkeys(map(tuple, read)) if len(ids) < 20]
    assert len(folds) == 5 and all(len(ids) == 16 for ids in folds)
    every = set.union(*folds)
    assert len(every) == 20 and all(sum(id not in ids for ids in folds) == 1 for id in every)  # each is held out once


def few_episodes(monkeypatch, adapter="st"):
    """Train two episodes, of one adapter."""
    for name, value in {"EPISODES": (2, 2), "EPISODE_STEP": 1}.items():
        monkeypatch.setattr(learn_trials, name, value)
    monkeypatch.setattr(learn_models, "TRAINED", {adapter: learn_models.TRAINED[adapter]})


def test_with_many_classes_the_checkpoint_is_chosen_on_classes_that_are_held_out(clips, config, monkeypatch):
    few_episodes(monkeypatch, "d2st-local")
    monkeypatch.setattr(learn_models, "HELD_OUT_FROM", 4)
    read, real = [], learn_trainings.train

    def watched(training):
        if training.validate_every:
            read.append((set(listed(training, "train")), set(listed(training, "val")), training.validate_every))
        return real(training)

    monkeypatch.setattr(learn_trainings, "train", watched)
    report = learn(config(clips, train=True))
    name = "test_resnet, d2st-local trained here, chosen on held-out classes"
    assert [row["measured"]["clips"] for row in report["candidates"] if row["model"] == name] == [20] * len(
        learn_models.HEADS
    )
    assert len(read) >= 5 and all(every == 1 for *_, every in read)
    for seen, chosen, _ in read[:5]:  # of each fold
        assert not {id.split("/")[0] for id in seen} & {id.split("/")[0] for id in chosen}
        assert len(seen) == len(chosen) == 8  # two classes of five clips each, but the fold that is held out


def test_unknown_clips_of_a_trained_winner_are_of_classes_that_it_has_not_seen(clips, config, monkeypatch, capsys):
    few_episodes(monkeypatch)
    monkeypatch.setattr(module, "models_of", lambda *a, real=module.models_of: real(*a)[-1:])  # the trained one
    read, real = {}, learn_trainings.train

    def watched(training):
        read[Path(training.out).name] = listed(training, "train")
        return real(training)

    monkeypatch.setattr(learn_trainings, "train", watched)
    report = learn(config(clips, train=True))
    assert len({id.split("/")[0] for id in read["unseen-run"]}) == 3 and len(read["unseen-run"]) == 12
    assert report["rejection"]["trained_on_others"] is False and 0 <= report["rejection"]["others"] <= 1

    monkeypatch.setattr(learn_models.Bench, "seconds_left", property(lambda self: 1e-9))
    monkeypatch.setattr(learn_trials, "PATIENCE", float("inf"))
    asked = config(clips, train=True)
    report = learn(asked)
    assert report["rejection"]["trained_on_others"] is True
    assert "measured with adapters that were trained on them: another training takes" in capsys.readouterr().err
    assert "there was no time to train others without them" in Path(asked.out, "report.html").read_text()

    def interrupted(trial):
        raise KeyboardInterrupt

    monkeypatch.setattr(learn_trials.Trial, "unseen", interrupted)  # the report is written all the same
    assert learn(asked)["rejection"]["trained_on_others"] is True
    assert "were trained on them: interrupted." in capsys.readouterr().err


def test_what_takes_too_long_is_left_out_and_said(clips, config, capsys):
    report = learn(config(clips, train=True, minutes=1e-6))
    assert {entry["model"] for entry in report["left_out"]} == {
        "test_resnet, d2st-local trained here",
        "test_resnet, st trained here",
    }
    assert report["chosen"].startswith("test_resnet, frozen")
    assert "Not tried: test_resnet, st trained here: the time left is too short by about" in capsys.readouterr().out


def test_control_c_keeps_what_there_is(clips, config, monkeypatch):
    asked = config(clips)
    (frozen,) = learn_models.models_of(asked, 4)
    monkeypatch.setattr(module, "models_of", lambda config, classes: [frozen, replace(frozen, name="another")])
    real, calls = module.answer, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > len(learn_models.HEADS):
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "answer", interrupted)
    report = learn(asked)
    assert {row["model"] for row in report["candidates"]} == {"test_resnet, frozen"}
    assert report["left_out"] == [{"model": "another", "reason": "interrupted"}]
    with pytest.raises(KeyboardInterrupt):  # nothing was tried yet
        learn(asked)


def test_what_turns_out_too_slow_is_given_up_and_goes_on_later(clips, config, monkeypatch):
    for name, value in {"EPISODES": (2, 2), "EPISODE_STEP": 1, "PATIENCE": 0.0}.items():
        monkeypatch.setattr(learn_trials, name, value)
    monkeypatch.setattr(learn_models, "TRAINED", {"st": learn_models.TRAINED["st"]})
    trained, real = [], learn_trainings.train

    def watched(training):
        if not is_measured(training):
            trained.append(training.out)
        return real(training)

    monkeypatch.setattr(learn_trainings, "train", watched)
    asked = config(clips, train=True)
    report = learn(asked)
    assert len(trained) == 1 and "a fold took" in report["left_out"][0]["reason"]
    assert "the same command goes on from what is trained" in report["left_out"][0]["reason"]
    assert report["chosen"].startswith("test_resnet, frozen")
    assert [folder.name for folder in Path(asked.out, "work").glob(".pace*")] == []
    monkeypatch.setattr(learn_trials, "PATIENCE", 1.25)
    monkeypatch.setattr(learn_trials, "EPISODES", (3, 3))  # other than at the first start
    report = learn(asked)
    assert not report["left_out"] and len({Path(out).parent.name for out in trained}) == 1
    assert trained[1] == trained[0]
    steps = read_steps(Path(trained[0], "metrics.jsonl"))
    assert len(steps) == 2  # the fold was not trained again


@pytest.mark.parametrize(("minutes", "episodes", "crops"), [(18, 2, 0), (30, 4, 4)])
def test_trainings_are_measured_before_they_begin(clips, config, monkeypatch, minutes, episodes, crops):
    """On a machine on which they take much longer than one pass of the frozen model, by a clock of their own."""
    monkeypatch.setattr(learn_trials, "EPISODES", (2, 4))
    monkeypatch.setattr(learn_trials, "EPISODE_STEP", 1)
    monkeypatch.setattr(learn_models, "TRAINED", {"st": learn_models.TRAINED["st"]})
    clock, trained, real = [0.0], set(), learn_trainings.train

    def slow(training):
        """Take 30 seconds, and a minute for an episode, or with crops 10 seconds more and 20 for an episode."""
        if not is_measured(training):
            trained.add(Path(training.out).parent.name)
            return real(training)
        start, episode = (40, 20) if training.prefix_crops else (30, 60)
        clock[0] += start + episode * training.episodes
        return {"seconds": episode * training.episodes}

    monkeypatch.setattr(learn_trainings, "train", slow)
    monkeypatch.setattr(learn_trainings, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    report = learn(config(clips, train=True, minutes=minutes))
    assert not report["left_out"] and trained == {f"{episodes}-episodes-{crops}-crops"}
    (twice,) = learn(config(clips, train=True, minutes=14, seed=1))["left_out"]  # two episodes take 15 minutes
    assert re.fullmatch(r"the time left is too short by about \d+ minutes", twice["reason"])


def test_control_c_in_a_training_keeps_what_there_is_and_the_state_of_the_training(clips, config, monkeypatch, capsys):
    few_episodes(monkeypatch)
    monkeypatch.setattr(learn_trials, "EPISODES", (3, 3))
    real = Trainer.log_step

    def interrupted(trainer, *arguments):
        if ".pace." not in str(trainer.folder.path) and trainer.state.done == 1:
            signal.raise_signal(signal.SIGINT)
        return real(trainer, *arguments)

    asked = config(clips, train=True)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "log_step", interrupted)
        report = learn(asked)
    assert report["left_out"] == [{"model": "test_resnet, st trained here", "reason": "interrupted"}]
    assert report["chosen"].startswith("test_resnet, frozen") and Path(asked.out, "report.html").exists()
    capsys.readouterr()
    assert not learn(asked)["left_out"]
    assert "goes on from episode 2 of 3" in capsys.readouterr().out


def test_a_training_that_fails_leaves_its_model_out(clips, config, monkeypatch):
    few_episodes(monkeypatch)

    def diverged(training):
        raise D2STError("The loss is not finite.")

    monkeypatch.setattr(learn_trainings, "train", diverged)
    report = learn(config(clips, train=True))
    assert report["left_out"] == [{"model": "test_resnet, st trained here", "reason": "The loss is not finite"}]


def test_a_trained_adapter_is_tried_as_it_is_and_trained_on(clips, config, small, tmp_path, monkeypatch):
    adapter = d2st.adapt("test_resnet", "st", frames=FRAMES, image_size=SIDE, pretrained=small / "weights.safetensors")
    adapter.save_pretrained(tmp_path / "adapter")
    asked = config(clips, train=True, backbone=None, adapter_path=str(tmp_path / "adapter"))
    found = learn_models.models_of(asked, 4)
    assert [(model.name, model.lr > 0) for model in found] == [
        ("d2st_stills, frozen", False),
        (f"adapter {tmp_path / 'adapter'}", False),
        ("d2st_stills, d2st-local trained here", True),
        ("d2st_stills, st trained here", True),
        (f"adapter {tmp_path / 'adapter'}, trained on", True),
    ]
    for name, value in {"EPISODES": (2, 2), "EPISODE_STEP": 1}.items():
        monkeypatch.setattr(learn_trials, name, value)
    monkeypatch.setattr(module, "models_of", lambda config, classes: [found[1], found[4]])
    report = learn(asked)
    assert {row["model"] for row in report["candidates"]} == {found[1].name, found[4].name}


def test_clips_that_cannot_be_used_are_named_and_left_out(clips, config, tmp_path, capsys):
    data = tmp_path / "clips"
    shutil.copytree(clips, data)
    (data / "blue" / "broken.mp4").write_bytes(b"no video")
    shutil.copy(data / "blue" / "0.mp4", data / "blue" / "copy.mp4")
    shutil.copy(data / "red" / "0.mp4", data / "white" / "stray.mp4")
    (data / "empty").mkdir()
    (data / "bad").mkdir()
    (data / "bad" / "0.mp4").write_bytes(b"no video")
    report = learn(config(data))
    dropped = {entry["id"]: entry["reason"] for entry in report["looked"]["left_out"]}
    assert dropped.keys() == {"bad/0.mp4", "blue/broken.mp4", "blue/copy.mp4", "red/0.mp4", "white/stray.mp4"}
    assert dropped["blue/copy.mp4"] == "the same file as 'blue/0.mp4'"
    assert dropped["red/0.mp4"] == "the same file as 'white/stray.mp4', in another class"
    assert report["classes"] == {"blue": 5, "green": 5, "red": 4, "white": 5}
    assert report["looked"]["classes_left_out"] == ["bad"]
    assert "Left out: blue/copy.mp4: the same file as 'blue/0.mp4'" in capsys.readouterr().err


def test_a_clip_that_breaks_off_behind_its_first_frames_is_left_out(clips, config, monkeypatch):
    real = datasets.read_clip

    def broken(path, *arguments):
        if path == clips / "red" / "2.mp4":
            raise VideoError(path, "it breaks off")
        return real(path, *arguments)

    monkeypatch.setattr(datasets, "read_clip", broken)
    report = learn(config(clips))
    assert report["looked"]["left_out"] == [{"id": "red/2.mp4", "reason": "it breaks off"}]
    assert report["clips"] == 19
    monkeypatch.setattr(learn_clips, "_unreadable", lambda *arguments: {})  # it breaks while the command is at work
    with pytest.raises(D2STError, match=r"red/2\.mp4 was readable a moment ago, and is not any more: it breaks off"):
        learn(config(clips, seed=1, out=f"{config(clips).out}-again"))


@pytest.mark.parametrize(
    ("classes", "shots", "said", "measured"),
    [
        (1, 5, "One class alone: nothing can be measured", False),
        (3, 1, "No class has a second clip to hold out", False),
        (2, 5, "Every clip is held out in turn", True),
    ],
)
def test_with_too_little_there_is_no_number(clips, config, tmp_path, capsys, classes, shots, said, measured):
    data = tmp_path / "clips"
    for name in sorted(path.name for path in clips.iterdir())[:classes]:
        (data / name).mkdir(parents=True)
        for n in range(shots):
            shutil.copy(clips / name / f"{n}.mp4", data / name)
    asked = config(data)
    report = learn(asked)
    out = capsys.readouterr().out
    assert said in out and (report["expected"] is not None) == measured
    assert ("nothing was measured" in out or "cannot be said" in out) != measured
    assert ("nothing could be measured" in report["reason"]) != measured
    assert "What was tried" in (tmp_path / "recognizer" / "report.html").read_text()
    used = {"classifier": asked.out, "weights": asked.weights, "device": "cpu"}
    assert len(predict(PredictConfig(query=str(data), **used))["predictions"]) == classes * shots


@pytest.mark.parametrize("saved", [False, True])
def test_vits_are_trained_too(clips, config, tmp_path, monkeypatch, saved):
    """Also where a saved adapter trains a temporal embedding at the input, before which nothing is frozen."""
    for name, value in {"EPISODES": (2, 2), "EPISODE_STEP": 1}.items():
        monkeypatch.setattr(learn_trials, name, value)
    weights = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=0, img_size=SIDE).state_dict(), weights)
    more = {"backbone": "test_vit", "weights": str(weights)}
    if saved:
        adapter = d2st.adapt("test_vit", "st", frames=FRAMES, image_size=SIDE, pretrained=weights)
        adapter.save_pretrained(tmp_path / "adapter")
        more |= {"adapter_path": str(tmp_path / "adapter")}
        monkeypatch.setattr(learn_models, "TRAINED", {})
    report = learn(config(clips, train=True, **more))
    assert not report["left_out"]
    models = {row["model"] for row in report["candidates"]}
    assert len(models) == 3 and any("trained" in model for model in models)


@pytest.mark.parametrize(("shots", "tried"), [((2, 2, 2), False), ((5, 5, 2), True)])
def test_training_makes_do_with_the_classes_that_have_two_clips(clips, config, tmp_path, monkeypatch, shots, tried):
    for name, value in {"EPISODES": (2, 2), "EPISODE_STEP": 1}.items():
        monkeypatch.setattr(learn_trials, name, value)
    monkeypatch.setattr(learn_models, "TRAINED", {"st": learn_models.TRAINED["st"]})
    data = tmp_path / "clips"
    for name, count in zip(sorted(path.name for path in clips.iterdir()), shots, strict=False):
        (data / name).mkdir(parents=True)
        for n in range(count):
            shutil.copy(clips / name / f"{n}.mp4", data / name)
    report = learn(config(data, train=True))
    models = {row["model"] for row in report["candidates"]}
    assert ("test_resnet, st trained here" in models) == tried
    assert tried or "needs two clips of two classes" in report["left_out"][0]["reason"]


def test_a_class_of_one_clip_is_in_the_recognizer_and_not_in_the_number(clips, config, tmp_path, capsys):
    data = tmp_path / "clips"
    shutil.copytree(clips, data)
    for n in range(1, 5):
        (data / "red" / f"{n}.mp4").unlink()
    report = learn(config(data))
    assert "Of 'red' too little is there to hold out" in capsys.readouterr().out
    assert report["expected"]["clips"] == 15 and report["classes"]["red"] == 1


def test_people_are_held_out_together(clips, config, tmp_path, capsys):
    data = tmp_path / "clips"
    shutil.copytree(clips, data)
    for path in data.glob("*/*.mp4"):
        path.rename(path.with_name(f"s0{int(path.stem) % 3}_{path.name}"))
    report = learn(config(data))
    assert (
        report["groups"] == {"count": 3, "source": "the clips' names (s00, s01, ...)"}
        and report["expected"]["groups"] == 3
    )
    assert (
        "3 people or scenes, by the clips' names (s00, s01, ...); each is held out as a whole."
        in capsys.readouterr().out
    )


def test_permuted_labels_stay_at_chance(clips, config, tmp_path, capsys):
    files = sorted(clips.glob("*/*.mp4"))
    names = np.random.default_rng(3).permutation([file.parent.name for file in files])
    rows = [f"{file.relative_to(clips).as_posix()},{name}" for file, name in zip(files, names, strict=True)]
    copy = tmp_path / "clips"
    shutil.copytree(clips, copy)
    (copy / "permuted.csv").write_text("\n".join(["path,label", *rows]))
    expected = learn(config(copy / "permuted.csv"))["expected"]
    assert expected["low"] < 0.25 < expected["high"] and expected["mean"] < 0.5
    assert "That is no better than guessing" in capsys.readouterr().out


def test_classes_of_one_person_each_are_not_said_to_have_one_clip(tmp_path):
    names = [f"{name}/s0{i}_{n}.mp4" for i, name in enumerate(("bend", "wave")) for n in range(3)]
    clips = datasets.ClipSet(("bend", "wave"), tuple(datasets.Clip(Path(n), n[0] == "w", n) for n in names))
    groups = find_groups(clips, tmp_path, None)
    said = learn_clips.allowance(clips, groups, divide(clips.labels, groups.of, 2, 0).measured)
    assert "2 people or scenes" in said and "the only one that shows some class" in said and "--groups none" in said
    report = {"classes": {"bend": 3, "wave": 3}, "expected": None, "groups": {"count": 2, "source": groups.source}}
    assert "too few of the people or scenes, by the clips' names (s00, s01), could" in learn_report.expected_sentence(
        report
    )


def test_people_who_cannot_be_held_out_are_named(tmp_path):
    names = [f"{name}/s0{i}.mp4" for name, who in (("bend", "123"), ("wave", "123"), ("jump", "1")) for i in who]
    classes = ("bend", "jump", "wave")
    listed = tuple(datasets.Clip(Path(n), classes.index(n.split("/")[0]), n) for n in names)
    clips = datasets.ClipSet(classes, listed)
    groups = find_groups(clips, tmp_path, None)
    said = learn_clips.allowance(clips, groups, divide(clips.labels, groups.of, 2, 0).measured)
    assert "Of these, 's01' cannot be held out, being the only one that shows some class; accuracies" in said


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["wave", "Pouring something into something until it overflows", "wave " * 40])
@pytest.mark.parametrize("count", [2, 40])
def test_what_is_mixed_up_can_be_seen_whatever_the_classes_are_called(name, count):
    figure = learn_report._matrix(np.eye(count), [f"{name} {i}" for i in range(count)])
    figure.draw_without_rendering()
    box = figure.axes[0].get_window_extent()
    assert min(box.width, box.height) / figure.dpi > 0.15 * count  # inches


@pytest.mark.parametrize(
    "sizes, low, said, doubt",
    [
        ((22, 22), 0.56, "guessing has 50", False),
        ((40, 4), 0.56, "always saying the largest class has 91", True),
        ((40, 4), 0.92, "always saying the largest class has 91", False),
    ],
)
def test_what_is_expected_is_compared_with_knowing_nothing(sizes, low, said, doubt):
    expected = {"mean": 0.94, "low": low, "high": 0.97, "clips": 44, "groups": 44}
    classes = dict(zip(("wave", "kick"), sizes, strict=True))
    sentence = learn_report.expected_sentence({"classes": classes, "expected": expected, "groups": {"count": 0}})
    assert said in sentence and ("no better than guessing" in sentence) is doubt


def test_two_at_a_time_do_not_share_a_folder(clips, config):
    asked = config(clips)
    code = "import sys\nfrom d2st.utils.files import hold\nfrom pathlib import Path\n"
    code += "with hold(Path(sys.argv[1]), 'learn.lock'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    folder = Path(asked.out) / "work"
    folder.mkdir(parents=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(D2STError, match="Another process is at work in"):
            learn(asked)
        other.stdin.close()


def test_what_cannot_be_learned_from_is_said(config, tmp_path):
    with pytest.raises(D2STError, match="Say which clips to learn from"):
        learn(LearnConfig())
    with pytest.raises(D2STError, match="does not exist"):
        learn(config(tmp_path / "missing"))
    assert not (tmp_path / "recognizer").exists()
    (tmp_path / "bad" / "a").mkdir(parents=True)
    (tmp_path / "bad" / "a" / "0.mp4").write_bytes(b"no video")
    with pytest.raises(D2STError, match=r"No clip of .* can be used; the first: a/0\.mp4: "):
        learn(config(tmp_path / "bad"))
    (tmp_path / "bad" / "a").rename(tmp_path / "bad" / "unknown")
    with pytest.raises(D2STError, match="A class is called 'unknown'"):
        learn(config(tmp_path / "bad"))


def test_backbones_at_hand_are_those_that_need_no_download(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HF_HUB_CACHE", str(tmp_path))
    assert build.at_hand("d2st_stills")
    name = learn_models.DEFAULT_BACKBONE
    assert not build.at_hand(name)
    found = learn_models.models_of(LearnConfig(clips="x", train=False), 3)
    assert [model.name for model in found] == ["d2st_stills, frozen"]
    repository = timm.get_pretrained_cfg(name).hf_hub_id.replace("/", "--")
    snapshot = tmp_path / f"models--{repository}" / "snapshots" / "1"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    assert build.at_hand(name)
    found = learn_models.models_of(LearnConfig(clips="x", train=False), 3)
    assert [model.name for model in found] == ["d2st_stills, frozen", f"{name}, frozen"]
