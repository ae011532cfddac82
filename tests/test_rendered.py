"""The rendered benchmark: the same for everybody, and nothing but motion tells its classes apart."""

import hashlib
import warnings
from itertools import pairwise

import numpy as np
import pytest
import yaml
from rendered_long import write_long
from stills import MOST, render_still

from d2st.data.datasets import open_dataset
from d2st.data.rendered import LOOKS, MOTIONS, RenderConfig, render_clip, split, write, write_benchmark, write_clip
from d2st.data.rendered.draw import CONTRAST, random_background, random_looks
from d2st.data.rendered.motion import and_back, hops, stop_and_go, zigzag
from d2st.data.rendered.shapes import COLORS
from d2st.data.sampling import build
from d2st.data.video.reader import iter_frames, probe
from d2st.errors import D2STError

BY_NAME = {motion.name: motion for motion in MOTIONS}
SMALL = RenderConfig(side=32, shortest=6, longest=9, clips={"train": 1, "val": 1, "test": 2}, workers=0)


def digest(frames: np.ndarray) -> str:
    return hashlib.sha256(frames.tobytes()).hexdigest()[:16]


def test_there_are_many_motions_with_names_of_their_own():
    assert len(MOTIONS) >= 40
    assert len(BY_NAME) == len(MOTIONS)


def test_split_gives_every_class_to_one_part_and_spreads_the_families():
    parts = split()
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(BY_NAME)
    families = {part: {BY_NAME[name].family for name in names} for part, names in parts.items()}
    assert families["test"] <= families["train"]
    assert families["val"] <= families["train"]
    assert len(families["test"]) >= 8


@pytest.mark.parametrize("motion", MOTIONS, ids=lambda motion: motion.name)
def test_every_motion_renders_and_moves(motion):
    frames = render_clip(motion, 3, SMALL)
    assert frames.dtype == np.uint8
    assert 6 <= len(frames) <= 9 and frames.shape[1:] == (32, 32, 3)
    assert (frames != frames[0]).any()


def test_a_clip_may_have_a_single_frame():
    config = RenderConfig(shortest=1, longest=2, side=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lengths = {len(render_clip(motion, 0, config)) for motion in MOTIONS}
    assert lengths == {1, 2}


def test_frames_are_the_same_for_everybody():
    """Computed once on x86-64; only exactly rounded operations are used, so that other machines give the same."""
    config = RenderConfig()
    assert digest(render_clip(BY_NAME["move-right"], 0, config)) == "6167873d2057eace"
    assert digest(render_clip(BY_NAME["whirl-clockwise"], 5, config)) == "c12b4a6c2162e4a9"
    image, objects = render_still(0, 7, 64)
    assert digest(image) == "916d63394f8b6dbe"
    assert objects.shape == (MOST, 8)


def test_a_clip_depends_on_seed_class_and_number_only():
    motion = BY_NAME["grow"]
    one = render_clip(motion, 0, SMALL)
    assert np.array_equal(one, render_clip(motion, 0, RenderConfig(side=32, shortest=6, longest=9)))
    assert not np.array_equal(one[:6], render_clip(motion, 1, SMALL)[:6])
    other = RenderConfig(side=32, shortest=6, longest=9, seed=1)
    assert not np.array_equal(one[:6], render_clip(motion, 0, other)[:6])


def test_a_single_frame_does_not_tell_opposite_motions_apart():
    """First, middle and last frames of opposite motions have the same mean picture and spread, up to chance."""
    config = RenderConfig(side=24, shortest=12, longest=12)

    def statistics(name: str) -> np.ndarray:
        rows = []
        for number in range(150):
            frame = render_clip(BY_NAME[name], number, config)[number % 12].astype(float)
            away = np.abs(frame - np.median(frame, (0, 1))).sum(-1)
            weight = away / away.sum()
            rows.append([(weight.sum(0) * np.arange(24)).sum(), (weight.sum(1) * np.arange(24)).sum(), away.mean()])
        return np.array(rows)

    for one, other in (("move-right", "move-left"), ("grow", "shrink"), ("move-up", "move-down")):
        first, second = statistics(one), statistics(other)
        error = np.sqrt(first.var(0) / len(first) + second.var(0) / len(second))
        assert (np.abs(first.mean(0) - second.mean(0)) < 3.5 * error).all(), (one, other)


def test_looks_differ_within_a_scene_and_stand_out():
    rng = np.random.default_rng(0)
    for _ in range(50):
        background = random_background(rng, 16)
        looks = random_looks(rng, 3, background)
        assert len({look.shape for look in looks}) == len({look.color for look in looks}) == 3
        mean = background.mean((0, 1)).round()
        tints = np.array(list(COLORS.values()))[[look.color for look in looks]]
        assert (np.abs(tints - mean).sum(1) >= CONTRAST - 3).all()


def test_look_classes_are_told_by_their_actors_and_not_by_the_motion(monkeypatch):
    seen = []
    monkeypatch.setattr(write, "draw", lambda looks, tracks, *_, **__: seen.append((looks, tracks)) or np.zeros(1))
    assert len({motion.name for motion in (*MOTIONS, *LOOKS)}) == len(MOTIONS) + len(LOOKS)
    for motion in LOOKS[::7]:
        for number in range(20):
            render_clip(motion, number, SMALL)
            looks, tracks = seen.pop()
            moving = [i for i, t in enumerate(tracks) if any(np.ptp(v) > 0 for v in (t.x, t.y, t.size, t.angle))]
            assert all((looks[i].shape, looks[i].fill) == motion.look for i in moving)
            others = [look for look in looks if (look.shape, look.fill) != motion.look]
            assert len(others) <= 1 and all(look.shape != motion.look[0] for look in others), "one bystander at most"
            assert len({look.color for look in looks}) == len(looks)
    parts = split(LOOKS)
    for part in ("train", "test"):
        assert {m.look[0] for m in LOOKS if m.name in parts[part]} == set(range(12))


def test_courses():
    u = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert and_back(u).tolist() == [0, 0.5, 1, 0.5, 0]
    assert zigzag(u).tolist() == [-1, 0, 1, 0, -1]
    assert hops(u).tolist() == [0, 0.75, 1, 0.75, 0]
    assert stop_and_go(np.array([0.05, 0.4, 0.6, 0.95])).tolist() == [0, 0.5, 0.5, 1]


def test_benchmark_is_written_once_and_opens_as_a_dataset(tmp_path, monkeypatch):
    from d2st.data.rendered import classes, write

    few = [BY_NAME[name] for name in ("move-right", "grow", "jump", "follow")]
    monkeypatch.setattr(write, "MOTIONS", few)
    monkeypatch.setattr(write, "split", lambda: {"train": ["move-right", "grow"], "val": ["jump"], "test": ["follow"]})
    assert classes.MOTIONS is MOTIONS
    assert list(write_benchmark(tmp_path, SMALL))[-1] == (5, 5)
    clip = tmp_path / "clips" / "follow" / "001.mp4"
    info = probe(clip)
    assert (info.codec, info.height, info.width) == ("h264", 32, 32)
    assert info.frames == len(render_clip(BY_NAME["follow"], 1, SMALL))

    test = open_dataset(tmp_path / "clips", tmp_path / "split.yaml", "test")
    assert test.classes == ("follow",) and len(test) == 2
    decoded = test.read(1, build("uniform", 4)).permute(0, 2, 3, 1).numpy().astype(int)
    drawn = render_clip(BY_NAME["follow"], 1, SMALL)[build("uniform", 4)(info.frames, 12.0, None)]
    assert np.abs(decoded - drawn).mean() < 8

    clip.unlink()
    others = {path: path.stat().st_mtime_ns for path in tmp_path.glob("clips/*/*.mp4")}
    assert list(write_benchmark(tmp_path, SMALL)) == [(4, 5), (5, 5)]
    assert clip.exists() and all(path.stat().st_mtime_ns == time for path, time in others.items())
    assert yaml.safe_load((tmp_path / "split.yaml").read_text())["val"] == ["jump"]


def test_benchmark_of_another_seed_is_refused(tmp_path):
    (tmp_path / "benchmark.yaml").write_text("seed: 4\n")
    with pytest.raises(D2STError, match="choose another folder"):
        next(write_benchmark(tmp_path, SMALL))


def test_the_same_frames_give_the_same_file(tmp_path):
    """With x264's rate control they did not: one file in two differed from run to run."""
    for name in ("move-right", "grow"):
        frames = render_clip(BY_NAME[name], 0, RenderConfig())
        files = set()
        for _ in range(12):
            write_clip(tmp_path / "a.mp4", frames)
            files.add((tmp_path / "a.mp4").read_bytes())
        assert len(files) == 1


def test_a_clip_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(Exception):  # noqa: B017 (an odd height is the encoder's to refuse)
        write_clip(tmp_path / "odd.mp4", np.zeros((3, 31, 31, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_long_videos_hold_their_events(tmp_path):
    names, others = ["move-right", "grow"], ["jump"]
    events = write_long(tmp_path / "a.mp4", names, others, 20, SMALL, share=0.6)
    assert events == write_long(tmp_path / "b.mp4", names, others, 20, SMALL, share=0.6)
    assert {event.label for event in events} <= set(names) and len(events) >= 2
    pictures = list(iter_frames(tmp_path / "a.mp4"))
    assert 20 * 12 <= len(pictures) <= 24 * 12
    for before, after in pairwise(events):
        assert before.end <= after.start
    for event in events:
        first, last = round(12 * event.start), round(12 * event.end)
        assert SMALL.shortest <= last - first <= SMALL.longest
        moved = np.abs(pictures[first].astype(int) - pictures[last - 1]).mean()
        assert moved > 1, "an event shows its motion"
    assert events != write_long(tmp_path / "c.mp4", names, others, 20, SMALL, number=1, share=0.6)
