"""``d2st spot``: from a support folder and a video to segments, in one pass; interrupted, and with broken inputs."""

import csv
import dataclasses
import json
import os
import shutil
import signal

import numpy as np
import pytest
import small as made
import torch
from PIL import Image

from d2st.classifiers.create import create_classifier
from d2st.commands import cli
from d2st.commands.spot import SpotConfig, spot
from d2st.data.preprocessing import Preprocessing
from d2st.data.sampling import uniform
from d2st.data.video.reader import read_clip
from d2st.data.video.stream import VideoStream, open_stream
from d2st.errors import D2STError
from d2st.spotting.segments import standing_out, window_scores
from d2st.spotting.shots import Changes
from d2st.spotting.watch import watch

SCENES = (("pink", 25), ("white", 35), ("teal", 22), ("white", 28), ("pink", 20))  # frames, 25 a second


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    """``support/`` with three clips of three classes, ``long.mp4`` in which they come and go, and ``events.csv``."""
    folder = tmp_path_factory.mktemp("spot")
    for name in ("pink", "teal", "white"):
        (folder / "support" / name).mkdir(parents=True)
        for n in range(3):
            shutil.copy(small / "data" / name / f"{n}.mp4", folder / "support" / name)
    rng, frames, events, now = np.random.default_rng(1), [], ["start,end,label"], 0.0
    for name, count in SCENES:
        frames.append(made.noisy(rng, name, count))
        events.append(f"{now:.2f},00:{now + count / 25:05.2f},{name}")
        now += count / 25
    made.write_clip(folder / "long.mp4", np.concatenate(frames))
    (folder / "events.csv").write_text("\n".join(events) + "\n")
    return folder


def config(small, folder, **more) -> SpotConfig:
    common = made.options(small) | {"reject_rate": 1e-9}  # codecs treat noise in long videos otherwise
    del common["data"], common["split"]
    return SpotConfig(**{"support": str(folder / "support"), "video": str(folder / "long.mp4")} | common | more)


def test_finds_what_happens_and_writes_it_all(small, folder, tmp_path, capsys):
    settings = config(
        small, folder, threshold=0, share=1, whole=0, out=str(tmp_path / "out"), events=str(folder / "events.csv")
    )
    result = spot(settings)
    assert [segment["label"] for segment in result["segments"]] == [name for name, _ in SCENES]
    assert result["events"]["precision"] == result["events"]["recall"] == 1
    assert result["complete"] and result["watched"] == pytest.approx(130 / 25)
    assert result["frames"]["frames"] == 130 and result["notes"][-1].startswith("Right are 5 of 5 segments")
    table = capsys.readouterr().out
    assert table.count("pink") == 2 and "00:00.0" in table
    saved = json.loads((tmp_path / "out" / "spot.json").read_text())
    assert saved["segments"] == result["segments"] and saved["config"]["video"] == str(folder / "long.mp4")
    rows = list(csv.DictReader((tmp_path / "out" / "windows.csv").open()))
    assert len(rows) == result["windows"] and list(rows[0]) == ["start", "end", "pink", "teal", "white"]
    with Image.open(tmp_path / "out" / "timeline.png") as picture:
        assert picture.width > 1000 and picture.height > 300


@pytest.mark.parametrize(("transforms", "rounding"), [("plain", 1e-4), ("released", 1e-2)])
def test_every_frame_is_decoded_and_resized_once_and_windows_are_clips(
    small, folder, monkeypatch, transforms: str, rounding: float
):
    classifier, _, settings = create_classifier(config(small, folder, transforms=transforms))
    resized = []
    real = Preprocessing.fit

    def counted(*options):
        return lambda frame: resized.append(1) or real(*options)(frame)

    monkeypatch.setattr(Preprocessing, "fit", counted)
    with open_stream(settings.video) as video:
        seen = list(watch(classifier, video, video.fps, (0.32, 0.64), 0.25, 7))
        assert video.tally.frames == len(resized) == 130
    spans, logits = np.concatenate([s.spans for s in seen]), np.concatenate([s.logits for s in seen])
    every = read_clip(settings.video, lambda length, fps, rng: np.arange(length))
    for (start, end), row in zip(spans, logits, strict=True):
        first, last = round(start * 25), round(end * 25)
        assert first / 25 == pytest.approx(start) and last / 25 == pytest.approx(end)
        clip = every[first:last][uniform(classifier.frames, last - first)]
        alone = classifier.logits(classifier.encode(classifier.transform(clip)).tokens.unsqueeze(0))[0]
        torch.testing.assert_close(torch.from_numpy(row), alone, rtol=rounding, atol=rounding)


def test_an_interrupted_run_keeps_what_it_found(small, folder, tmp_path, monkeypatch, capsys):
    frames = VideoStream.__iter__

    def interrupt(video):
        for i, frame in enumerate(frames(video)):
            if i == 70:
                os.kill(os.getpid(), signal.SIGINT)
            yield frame

    monkeypatch.setattr(VideoStream, "__iter__", interrupt)
    result = spot(
        config(
            small, folder, threshold=0, share=1, whole=0, out=str(tmp_path / "out"), events=str(folder / "events.csv")
        )
    )
    assert not result["complete"] and 1.5 < result["watched"] < 3.6 and cli.COMMANDS["spot"].exit_code(result) == 130
    assert result["segments"][0]["label"] == "pink" and "only the first" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "spot.json").read_text())["segments"] == result["segments"]

    def fail(video):
        for i, frame in enumerate(frames(video)):
            if i == 70:
                raise MemoryError("no memory left")
            yield frame

    monkeypatch.setattr(VideoStream, "__iter__", fail)
    with pytest.raises(MemoryError):
        spot(config(small, folder, threshold=0, share=1, whole=0, out=str(tmp_path / "again")))
    assert json.loads((tmp_path / "again" / "spot.json").read_text())["segments"][0]["label"] == "pink"


def test_events_behind_the_end_are_missed_and_told(small, folder, tmp_path):
    events = (folder / "events.csv").read_text()
    (tmp_path / "events.csv").write_text(f"{events}100,101,pink\n200,201,teal\n")
    result = spot(config(small, folder, threshold=0, share=1, whole=0, events=str(tmp_path / "events.csv")))
    assert result["events"]["events"] == 7 and result["events"]["recall"] == 5 / 7
    assert any("2 of 7 events begin behind the end of the video, 00:05.2," in note for note in result["notes"])


def test_other_formats(small, folder, capsys):
    result = spot(config(small, folder, threshold=0, share=1, whole=0, format="jsonl"))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == result["segments"]
    spot(config(small, folder, threshold=0, share=1, whole=0, format="csv"))
    assert capsys.readouterr().out.splitlines()[0] == "start,end,label,score"
    assert spot(config(small, folder, threshold=1))["segments"] == []
    assert "None of the actions" in capsys.readouterr().out


def test_windows_that_are_read_unlike_the_support_clips_are_told(small, folder, capsys):
    result = spot(config(small, folder, sampling="rate50"))
    assert any("support clips with sampling rate50" in note for note in result["notes"])
    assert "Windows are read uniformly" in capsys.readouterr().err
    assert result["reading"]["sampling"] == "rate50"


@pytest.mark.parametrize(
    "more, sentence",
    [
        ({"video": ""}, "which video"),
        ({"video": "none.mp4"}, "no such file"),
        ({"video": "SUPPORT"}, "it is a folder"),
        ({"stride": 0.0}, "stride=0.0 must be a number from 0.01 to 1"),
        ({"threshold": 1.5}, "threshold=1.5 must be a number from 0 to 1"),
        ({"lengths": (1e-7, 1.0)}, r"lengths=\(1e-07, 1.0\) must be a list of numbers of at least 0.01"),
        ({"lengths": ()}, "lengths is an empty list"),
        ({"events": "none.csv"}, "cannot be read: No such file"),
        ({"events": "WRONG"}, "Line 2 of the events"),
        ({"events": "STRANGE"}, "name purple; the support set"),
        ({"events": "HEADLESS"}, "no column start, end, label"),
    ],
)
def test_what_cannot_be_used_is_told(small, folder, tmp_path, more, sentence):
    (tmp_path / "WRONG").write_text("start,end,label\n5,4,pink\n")
    (tmp_path / "STRANGE").write_text("start,end,label\n4,5,purple\n")
    (tmp_path / "HEADLESS").write_text("4,5,pink\n")
    paths = {"SUPPORT": folder / "support"} | {n: tmp_path / n for n in ("WRONG", "STRANGE", "HEADLESS")}
    more = {key: str(paths.get(value, value)) if isinstance(value, str) else value for key, value in more.items()}
    with pytest.raises(D2STError, match=sentence):
        spot(config(small, folder, **more))


def test_scores_say_how_far_a_window_stands_out(small, folder):
    rejector = create_classifier(config(small, folder))[0].rejector
    rng = np.random.default_rng(0)
    logits = rng.normal(-3, 0.2, (400, 3)).astype(np.float32)
    logits[7, 1] += 3
    logits[9:20] -= 50
    _, unknown = rejector(torch.from_numpy(logits))
    unknown = unknown.numpy()
    fits = window_scores(rejector, logits, 1)
    assert (fits[unknown] == 0).all() and fits[~unknown].sum(1) == pytest.approx(1)
    assert (fits.argmax(1) == logits.argmax(1))[~unknown].all()
    outstanding = standing_out(logits, 0.05)
    assert outstanding[7, 1] > 0.99 and ((outstanding >= 0.5).mean(0) == 0.05).all()
    assert (standing_out(logits, 0.2) >= 0.5).mean(0) == pytest.approx(0.2)
    assert standing_out(logits + np.array([5, 0, -5]), 0.05) == pytest.approx(outstanding, rel=1e-3)  # each class alone
    assert standing_out(7 * logits, 0.05) == pytest.approx(outstanding, rel=1e-3)  # in whatever unit a head measures
    expected = np.where(unknown[:, None], 0, outstanding)
    assert window_scores(rejector, logits, 0.05) == pytest.approx(expected)
    assert standing_out(np.zeros((5, 2)), 0.05).max() < 0.5  # nothing stands out of a still video


@pytest.fixture(scope="module")
def resting(folder):
    """A video in which something moves, then nothing for four seconds, then something again."""
    rng = np.random.default_rng(2)
    moving = [made.noisy(rng, name, 25) for name in ("pink", "teal")]
    made.write_clip(folder / "resting.mp4", np.concatenate([moving[0], moving[0][-1:].repeat(100, 0), moving[1]]))
    return str(folder / "resting.mp4")


def test_windows_in_which_nothing_moves_are_passed_over(small, folder, resting, tmp_path):
    """They are listed, and count among the video's windows; the others have the logits that they had without."""
    settings = config(small, folder, video=resting, lengths=(0.5, 0.9), cut=1, out=str(tmp_path))
    result = spot(settings)
    assert 0.5 < result["still"] / result["windows"] < 0.7
    rows = list(csv.DictReader((tmp_path / "windows.csv").open()))
    still = np.array([not row["pink"] for row in rows])
    assert len(rows) == result["windows"] and still.sum() == result["still"]
    assert all(float(row["start"]) + 0.3 > 1 and float(row["end"]) < 5.3 for row in np.array(rows)[still])
    classifier = create_classifier(settings)[0]
    with open_stream(resting) as video:
        seen = list(watch(classifier, video, video.fps, (0.5, 0.9), 0.25, 7, Changes(1)))
    logits, spans = (np.concatenate([getattr(batch, name) for batch in seen]) for name in ("logits", "spans"))
    assert spans == pytest.approx(np.array([[float(row["start"]), float(row["end"])] for row in rows]), abs=1e-3)
    assert not np.isnan(logits).any()
    own = np.array([[float(row[name] or "nan") for name in classifier.classes] for row in rows])
    assert own[~still] == pytest.approx(logits[~still], abs=1e-3)
    scores = window_scores(classifier.rejector, np.where(still[:, None], np.nan, logits), 0.2)
    assert (scores[still] == 0).all() and ((scores >= 0.5).sum(0) <= np.ceil(0.2 * len(rows))).all()
    assert spot(config(small, folder, video=resting, whole=0, cut=1))["still"] == 0


def test_a_video_in_which_nothing_moves_says_so(small, folder, tmp_path, capsys):
    picture = np.full_like(made.noisy(np.random.default_rng(3), "pink", 1), 128)  # noise would change as it is coded
    made.write_clip(tmp_path / "still.mp4", picture.repeat(50, 0))
    result = spot(config(small, folder, video=str(tmp_path / "still.mp4"), out=str(tmp_path / "out")))
    assert result["complete"] and result["still"] == result["windows"] > 0 and not result["segments"]
    assert result["notes"] == ["Nothing moves in this video, so nothing was looked at; --whole 0 looks at all of it."]
    assert "None of the actions was found." in capsys.readouterr().out
    assert (tmp_path / "out" / "timeline.png").exists()


def test_a_video_of_one_window_says_that_nothing_stands_out(small, folder):
    short = config(small, folder, video=str(small / "data" / "pink" / "4.mp4"), lengths=5.0)
    result = spot(short)
    assert result["windows"] == 1 and not result["segments"]
    (note,) = result["notes"]
    assert "Only one window" in note and "--share 1" in note
    result = spot(dataclasses.replace(short, share=1))
    assert [segment["label"] for segment in result["segments"]] == ["pink"] and not result["notes"]


def test_a_video_of_few_windows_in_which_nothing_is_found_says_so(small, folder):
    few = config(small, folder, video=str(small / "data" / "pink" / "4.mp4"), lengths=(0.2, 0.3), threshold=1)
    result = spot(few)
    assert 1 < result["windows"] < 20 and not result["segments"]
    (note,) = result["notes"]
    assert f"Only {result['windows']} windows" in note and "--share 1 compares each" in note
    assert not spot(dataclasses.replace(few, share=0.5))["notes"]
    found = spot(dataclasses.replace(few, threshold=0))
    assert {segment["label"] for segment in found["segments"]} > {"pink"}  # whatever the video, some windows stand out
    (note,) = found["notes"]
    assert "white (pink)" in note and "which d2st predict would say" in note and "--share 1" in note
    by_likeliest = spot(dataclasses.replace(few, threshold=0, share=1))
    assert {segment["label"] for segment in by_likeliest["segments"]} == {"pink"} and not by_likeliest["notes"]


def test_a_list_of_no_events_is_scored_too(small, folder, tmp_path):
    """Where nothing happens, what was found is wrong."""
    (tmp_path / "none.csv").write_text("start,end,label\n")
    result = spot(config(small, folder, events=str(tmp_path / "none.csv"), threshold=0))
    assert result["events"] == {
        "right": 0,
        "segments": len(result["segments"]),
        "events": 0,
        "precision": 0.0,
        "recall": None,
    }
    assert any("Right are 0 of" in note for note in result["notes"]) and result["segments"]


def test_windows_end_at_cuts(small, folder):
    cuts = np.cumsum([count for _, count in SCENES])[:-1] / 25
    settings = config(small, folder, threshold=0, share=1, lengths=(0.5, 0.9))
    classifier = create_classifier(settings)[0]
    with open_stream(settings.video) as video:
        changes = Changes()
        seen = list(watch(classifier, video, video.fps, (0.5, 0.9), 0.25, 7, changes))
    spans = np.concatenate([batch.spans for batch in seen])
    assert list(changes.starts)[1:] == pytest.approx(cuts)
    assert not any(start < cut - 1e-6 and cut + 1e-6 < end for start, end in spans for cut in cuts)
    result = spot(settings)
    assert result["shots"] == len(SCENES) and result["windows"] == len(spans)
    assert spot(config(small, folder, cut=1, lengths=(0.5, 0.9)))["shots"] == 1


def test_a_saved_classifier_knows_the_lengths_of_its_examples(small, folder, tmp_path):
    classifier, _, settings = create_classifier(config(small, folder))
    assert classifier.seconds == dict.fromkeys(classifier.classes, (8 / 25, 10 / 25))
    classifier.save_pretrained(tmp_path / "saved")
    again = {"video": settings.video, "classifier": str(tmp_path / "saved"), "weights": settings.weights}
    again |= {"threshold": 0, "share": 1, "whole": 0, "reject_rate": 1e-9, "device": "cpu"}
    assert spot(SpotConfig(**again))["windows"] == spot(config(small, folder))["windows"]
    classifier.seconds.clear()  # as it was saved before it knew them
    classifier.save_pretrained(tmp_path / "saved")
    with pytest.raises(D2STError, match="--lengths"):
        spot(SpotConfig(**again))
    result = spot(SpotConfig(**again, lengths=0.5, cut=1))
    assert {segment["label"] for segment in result["segments"]} == {"pink", "teal", "white"}
    assert result["windows"] == 39  # 38 from 0 to 4.625 s in steps of 0.125 s, and one that ends with the video
