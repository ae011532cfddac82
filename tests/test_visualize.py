"""``d2st visualize`` from flags to files, and that its pictures show its numbers."""

import itertools
import json
import re
import shutil
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch
from PIL import Image

import d2st
from d2st.commands import cli
from d2st.data.rendered import MOTIONS, RenderConfig, render_clip, write_clip
from d2st.visualize import point_figures, sheet
from d2st.visualize.clip_points import clip_points


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rendered clips ``clips/<motion>/<n>.mp4`` of two motions and an adapter in ``adapter``."""
    folder = tmp_path_factory.mktemp("visualize")
    for motion in MOTIONS[:2]:
        (folder / "clips" / motion.name).mkdir(parents=True)
        for number in range(2):
            frames = render_clip(motion, number, RenderConfig())
            write_clip(folder / "clips" / motion.name / f"{number}.mp4", frames)
    torch.manual_seed(0)
    encoder = d2st.adapt("d2st_stills", d2st.D2STConfig(positions=(2, 3)), frames=4)
    with torch.no_grad():
        for name, parameter in encoder.adapters.named_parameters():
            if ".points.project." in name:
                parameter.normal_(std=0.5)
    encoder.save_pretrained(folder / "adapter")
    return folder


@pytest.fixture(scope="module")
def result(folder):
    """What one run with everything wrote."""
    a, b = (folder / "clips" / motion.name for motion in MOTIONS[:2])
    flags = ["--adapter", folder / "adapter", "--support", folder / "clips", "--token", "2,50,40", "--top", "30"]
    flags += ["--out", folder / "out", "--device", "cpu"]
    assert (a / "0.mp4").exists() and b.exists()
    assert cli.main(["visualize", str(a / "0.mp4"), *map(str, flags)]) == 0
    return json.loads((folder / "out" / "visualize.json").read_text())


def test_every_file_is_what_its_name_says(folder, result):
    out = folder / "out"
    expected = {"important.png", "token.png", "points/00-layer3_0.png", "points/01-layer4_0.png", "alignment.png"}
    assert set(result["files"]) == expected | {"important.gif", "important.mp4", "visualize.json"}
    assert {str(p.relative_to(out)) for p in out.rglob("*.*")} == set(result["files"])
    for name in expected:
        with Image.open(out / name) as image:
            assert image.format == "PNG" and image.width > 400 and len(np.unique(np.asarray(image.convert("L")))) > 20
    with Image.open(out / "important.gif") as image:
        assert image.format == "GIF" and image.n_frames > 4 and image.info["duration"] >= 20
        moments, size = image.n_frames, image.size
    with av.open(str(out / "important.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == moments and frames[0].shape == (size[1], size[0], 3)
    assert any((a != b).any() for a, b in itertools.pairwise(frames))


def test_small_marks_keep_their_color_in_a_gif(tmp_path):
    y, x = np.mgrid[:80, :120]
    pictures = [np.stack([y * 2, x, 200 - x], axis=-1).astype(np.uint8) for _ in range(2)]
    for picture in pictures:
        picture[10:14, 10:14], picture[50:54, 90:94] = (230, 159, 0), (86, 180, 233)
    sheet.write_gif(tmp_path / "a.gif", pictures, 10)
    with Image.open(tmp_path / "a.gif") as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(drawn - pictures[0].astype(int)).max() < 25


def test_numbers_are_those_of_the_clip(folder, result):
    clip = result["clip"]
    assert clip["frames"] == [(2 * k + 1) * clip["length"] // 8 for k in range(4)]
    assert result["token"] == {"frame": 2, "x": 50.0, "y": 40.0}
    encoder = d2st.load(folder / "adapter")
    frames = d2st.data.video.reader.read(clip["path"], clip["frames"])
    again = clip_points(encoder, frames, (2, 50, 40))
    assert len(result["points"]) == len(again.pathways) == 4
    for written, entry in zip(result["points"], again.pathways, strict=True):
        assert (written["site"], written["pathway"]) == (entry.site, entry.pathway)
        count = entry.shifted[..., 0].numel()
        places = np.stack([written[name] for name in ("frame", "y", "x")], axis=1)  # (points, 3)
        assert np.allclose(places, again.shifted(entry).flatten(0, 1), atol=2e-3)
        resting = np.stack([written["rest_" + name] for name in ("frame", "y", "x")], axis=1)
        assert np.allclose(resting[: len(entry.resting)], again.resting(entry), atol=2e-3)
        assert len(written["attention"]) == len(written["inside"]) == len(written["group"]) == count
        assert sum(written["attention"]) == pytest.approx(written["queries"] * written["groups"], rel=1e-3)
        assert 0 <= written["outside"] < 1 and 0 < written["entropy"] <= 1 and 0 <= written["saturated"] <= 1
        assert sum(written["token_attention"]) == pytest.approx(written["groups"], rel=1e-3)


def test_the_alignment_is_that_of_the_predicted_class(folder, result):
    found = result["alignment"]
    prediction = (
        d2st.FewShotClassifier(d2st.load(folder / "adapter")).fit(folder / "clips").predict(result["clip"]["path"])
    )
    assert found["label"] == prediction.label and found["scores"] == pytest.approx(prediction.scores, rel=1e-4)
    assert len(found["examples"]) == 2 and found["shown"] in found["examples"]
    assert [j for _, j in found["of_query"]] == [match.support_frame for match in prediction.matches]
    distances = np.array(found["distances"])
    assert all(distances[i, j] == distances[:, j].min() for i, j in found["of_support"])


def test_circles_lie_on_their_pixels(folder):
    """Found again in the drawing: centers at the pixels of the points, cut to the frame, areas by attention."""
    clip = clip_points(d2st.load(folder / "adapter"), torch.full((4, 3, 60, 90), 128, dtype=torch.uint8))
    figure = point_figures.important_points(clip, count=20)
    width, height = point_figures.frame_size(60, 90, side=1.35)
    places, weights = clip.top("spatial", 20)
    assert clip.inside(places).all() and 0 < clip.share_outside("spatial") < 1
    drawn = [c for c in figure.axes[0].collections if len(c.get_offsets())]
    images = [image.get_extent() for image in figure.axes[0].images]  # left, right, bottom, top in inches
    assert len(images) == 8 and images[0][1] - images[0][0] == pytest.approx(width)
    found = 0
    for (t, y, x), weight in zip(places.tolist(), weights.tolist(), strict=True):
        for frame, (left, right, bottom, top) in enumerate(images[:4]):
            area = point_figures.LARGEST * max(0, 1 - abs(t - frame)) * weight / weights.max().item()
            if area > 1 and -0.5 <= y <= 59.5 and -0.5 <= x <= 89.5:
                at = (left + (x + 0.5) / 90 * (right - left), top + (y + 0.5) / 60 * (bottom - top))
                near = [c.get_sizes()[np.abs(c.get_offsets() - at).max(1) < 1e-4] for c in drawn]  # a disc and its rim
                assert sum((np.abs(sizes - area) < 1e-2).sum() for sizes in near) >= 2
                found += 1
    assert found > 5 and height == pytest.approx(width * 60 / 90)


def test_portrait_and_long_clips_are_drawn(folder):
    clip = clip_points(
        d2st.adapt("d2st_stills", d2st.D2STConfig(positions=(3,)), frames=12),
        torch.randint(0, 255, (12, 3, 128, 72), dtype=torch.uint8),
        token=(11, 30, 60),
    )
    sheet = point_figures.pixels(point_figures.token_points(clip))
    assert sheet.shape[0] > 600 and sheet.shape[1] < 1400  # two lines a pathway
    moment = next(point_figures.moments(clip, clip.frames, np.arange(12)))
    assert moment.shape[0] % 2 == moment.shape[1] % 2 == 0


@pytest.mark.parametrize("kind", ["video", "turned", "frames"])
def test_places_on_pictures_that_are_read_smaller(folder, tmp_path, monkeypatch, capsys, kind):
    """Of a video that is read at half its size, as 4K is, places and tokens are in the clip's own pixels, as of any."""
    clip = tmp_path / "clip"
    if kind == "frames":
        clip.mkdir()
        for n in range(4):
            Image.fromarray(clips.picture(n)).save(clip / f"{n}.png")
    else:
        clip = clips.write(tmp_path / "clip.mp4")
        if kind == "turned":
            clips.turn(clip, 0, 1, -1, 0)
    width, height = (96, 128) if kind == "turned" else (128, 96)
    flags = ["--adapter", folder / "adapter", "--frames", "4", "--token", "2,55,60", "--device", "cpu"]
    assert cli.main(["visualize", str(clip), *map(str, flags), "--out", str(tmp_path / "whole")]) == 0
    monkeypatch.setattr("d2st.data.video.pictures._LONG", 127)
    monkeypatch.setattr("d2st.data.video.pictures._SHORT", 48)
    assert cli.main(["visualize", str(clip), *map(str, flags), "--out", str(tmp_path / "half")]) == 0
    said = f"(visualize.json, --token) are in pixels of the clip's own upright pictures, {width}x{height}."
    assert capsys.readouterr().out.count(said) == 2
    whole, half = (json.loads((tmp_path / run / "visualize.json").read_text()) for run in ("whole", "half"))
    assert (half["clip"]["width"], half["clip"]["height"]) == (width, height)
    assert half["token"] == whole["token"] == {"frame": 2, "x": 55.0, "y": 60.0}
    assert half["clip"]["seen"] == pytest.approx(whole["clip"]["seen"], abs=1e-3)
    for ours, theirs in zip(half["points"], whole["points"], strict=True):
        for name in ("rest_frame", "rest_x", "rest_y"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-3)
        assert sum(ours["token_attention"]) == pytest.approx(ours["groups"], rel=1e-3)


def test_marks_lie_on_pictures_that_were_read_smaller(folder):
    """The drawing is that of the same pictures with marks in their own pixels."""
    pictures = torch.randint(0, 255, (4, 3, 60, 90), dtype=torch.uint8)
    encoder = d2st.load(folder / "adapter")
    own, doubled = (clip_points(encoder, pictures, own_size=size) for size in (None, (120, 180)))
    drawn = [point_figures.pixels(point_figures.important_points(clip, 20)).astype(int) for clip in (own, doubled)]
    assert torch.allclose((own.top("spatial", 9)[0][:, 1:] + 0.5) * 2, doubled.top("spatial", 9)[0][:, 1:] + 0.5)
    assert (np.abs(drawn[0] - drawn[1]).max(-1) > 8).mean() < 1e-3
    moving = [next(point_figures.moments(clip, clip.frames, np.arange(4))).astype(int) for clip in (own, doubled)]
    assert (np.abs(moving[0] - moving[1]).max(-1) > 8).mean() < 1e-3


def test_pictures_of_an_earlier_run_are_removed(folder, tmp_path, capsys):
    out = tmp_path / "out"
    (out / "points").mkdir(parents=True)
    own = [out / "notes.txt", out / "token.jpg", out / "points" / "mine.png", out / "points" / "00-mine.txt"]
    for file in own:
        file.write_text("mine")
    clip = str(next((folder / "clips").rglob("0.mp4")))
    flags = ["--frames", "4", "--device", "cpu", "--out", str(out)]
    more = ["--token", "2,50,40", "--support", str(Path(clip).parent)]
    assert cli.main(["visualize", clip, "--adapter", str(folder / "adapter"), *more, *flags]) == 0
    assert "earlier" not in capsys.readouterr().err
    one = ["--backbone", "d2st_stills", "--adapter", "d2st", "--adapter.positions", "2"]
    assert cli.main(["visualize", clip, *one, *flags]) == 0
    said = capsys.readouterr().err
    assert "earlier run were removed" in said and "alignment.png, points/01-layer4_0.png, token.png." in said
    files = set(json.loads((out / "visualize.json").read_text())["files"])
    there = {file.relative_to(out).as_posix() for file in out.rglob("*.*")}
    assert there == files | {file.relative_to(out).as_posix() for file in own}


def test_a_clip_of_extracted_frames(folder, tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for n in range(4):
        Image.fromarray(np.full((48, 64, 3), 40 * n, np.uint8)).save(frames / f"{n}.png")
    flags = ["--adapter", folder / "adapter", "--support", frames, "--frames", "4", "--out", tmp_path / "out"]
    assert cli.main(["visualize", str(frames), *map(str, flags)]) == 0
    record = json.loads((tmp_path / "out" / "visualize.json").read_text())
    assert record["clip"]["frames"] == [0, 1, 2, 3] and len(record["alignment"]["examples"]) == 1


def test_adapters_without_points(folder, tmp_path, capsys):
    clip = next((folder / "clips").rglob("0.mp4"))
    flags = ["visualize", str(clip), "--backbone", "d2st_stills", "--adapter", "st", "--frames", "4"]
    flags += ["--out", str(tmp_path), "--head", "otam"]
    assert cli.main(flags) == 2
    assert "'st' has no reference points" in capsys.readouterr().err
    assert cli.main([*flags, "--support", str(clip.parent)]) == 0
    assert "'st' has no reference points" in capsys.readouterr().out
    record = json.loads((tmp_path / "visualize.json").read_text())
    assert record["files"] == ["alignment.png", "visualize.json"] and record["alignment"]["rule"] == "path"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"query": "nowhere.mp4"}, "no such file"),
        ({"query": "broken.mp4"}, "cannot be read"),
        ({"--support": "nowhere"}, "support 'nowhere' does not exist"),
        ({"--support": "broken.mp4"}, "has no examples"),
        ({"--token": "9,1,1"}, "frames 0 to 3"),
        ({"--token": "1,1"}, "must be frame,x,y"),
        ({"query": "."}, "is a folder"),
        ({"--top": "0"}, "top=0 must be a whole number from 1"),
        ({"--adapter": "nowhere"}, "neither a system"),
    ],
)
def test_broken_input_gives_a_sentence(folder, tmp_path, monkeypatch, capsys, change, words):
    clip = next((folder / "clips").rglob("0.mp4"))
    (tmp_path / "broken.mp4").write_bytes(clip.read_bytes()[:300])
    monkeypatch.chdir(tmp_path)
    flags = {"query": str(clip), "--adapter": str(folder / "adapter"), "--out": "out"} | change
    assert cli.main(["visualize", flags.pop("query"), *(part for flag in flags.items() for part in flag)]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def test_an_unreadable_example_is_passed_over(folder, tmp_path, capsys):
    motion = MOTIONS[0].name
    shutil.copytree(folder / "clips" / motion, tmp_path / motion)
    (tmp_path / motion / "9.mp4").write_bytes(b"no video")
    flags = ["--backbone", "d2st_stills", "--frames", "4", "--support", tmp_path / motion, "--out", tmp_path / "out"]
    assert cli.main(["visualize", str(folder / "clips" / motion / "0.mp4"), *map(str, flags)]) == 0
    assert "Passed over" in capsys.readouterr().err
    record = json.loads((tmp_path / "out" / "visualize.json").read_text())
    assert len(record["alignment"]["examples"]) == 2 and len(record["alignment"]["unreadable"]) == 1


def test_the_python_of_the_docs(folder, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parent.parent / "docs" / "visualize.md").read_text()
    shutil.copytree(folder / "adapter", tmp_path / "runs" / "first" / "best")
    shutil.copy(next((folder / "clips").rglob("0.mp4")), tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], {})
    assert "layer4_0 temporal torch.Size" in capsys.readouterr().out
    assert Image.open("important.png").width > 400
