"""Maps of what lies before the first adapter, kept in a file, and ``d2st train --prefix-crops``, which reads them."""

import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import small as dataset
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import d2st
from d2st.commands import cli
from d2st.commands.train import TrainConfig, train
from d2st.data.datasets import ClipSet, open_dataset
from d2st.data.rendered import RenderConfig, split, write_benchmark
from d2st.data.sampling import build
from d2st.data.video.errors import VideoError
from d2st.errors import D2STError
from d2st.features import prefix_maps
from d2st.features.map_file import MapClips, read_index
from d2st.features.prefix import split_encoder
from d2st.features.prefix_maps import PrefixMaps
from d2st.training.trainer import Trainer
from d2st.utils.distributed import launch
from d2st.utils.options import ComputeOptions

LATE = d2st.D2STConfig(ratio=0.5, positions=(2, 3))
AUGMENTATION = {"transforms": "plain", "flip": True, "jitter": 0.2}


def encoder(folder, seed=0, config=LATE):
    torch.manual_seed(seed)
    weights = folder / "weights.safetensors"
    return d2st.adapt("test_resnet", config, frames=4, pretrained=weights, image_size=dataset.SIDE)


def maps_of(folder, out, crops=2, data=None, model=None, gigabytes=1.0, workers=0, precision="fp32", **augmentation):
    suffix = split_encoder(model or encoder(folder))
    clips = open_dataset(data or folder / "data", folder / "split.yaml", "train")
    compute = ComputeOptions(workers=workers, precision=precision)
    return PrefixMaps(suffix, clips, crops, AUGMENTATION | augmentation, out, gigabytes, compute)


def prepared(*args, **more) -> PrefixMaps:
    maps = maps_of(*args, **more)
    maps.prepare(launch(torch.device("cpu")))
    return maps


def every(length, fps, rng):
    return np.arange(length)


def test_each_draw_is_what_the_prefix_gives_of_the_training_transform(small, tmp_path):
    maps = prepared(small, tmp_path)
    clips = open_dataset(small / "data", small / "split.yaml", "train")
    assert isinstance(maps.clips, MapClips) and maps.clips.clips == clips.clips
    about = read_index(maps.path, maps.key)
    assert about.lengths == [len(clips.read(i, every)) for i in range(len(clips))] and about.rates[0] == 25
    for clip in (0, 7):
        for crop in range(2):
            _, (video,) = prefix_maps._read(clips, maps.transform, (clip, range(crop, crop + 1)))
            expected = maps.suffix.prefix(video)
            found = maps.clips.file.read(clip, crop, np.arange(len(video)))
            assert found.dtype == torch.float16
            torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)
    one, two = (maps.clips.file.read(0, crop, np.arange(8)) for crop in range(2))
    assert not torch.allclose(one.float(), two.float(), atol=1e-2), "the crops do not differ"


@pytest.mark.parametrize(("most", "reads"), [(512, 1), (1, 3)])
def test_a_clip_is_decoded_once_for_many_crops(small, tmp_path, monkeypatch, most, reads):
    expected = prepared(small, tmp_path / "one", crops=3).path.read_bytes()
    maps, read, seen = maps_of(small, tmp_path / "two", crops=3), ClipSet.read, []
    monkeypatch.setattr(prefix_maps, "_FRAMES_READ", most)
    monkeypatch.setattr(ClipSet, "read", lambda clips, i, *more: (seen.append(i), read(clips, i, *more))[1])
    maps.prepare(launch(torch.device("cpu")))
    assert sorted(seen) == sorted(list(range(len(maps.frames))) * reads)
    assert maps.path.read_bytes() == expected


@given(crops=st.integers(1, 40), frames=st.integers(0, 2000))
def test_lots_hold_each_crop_once(crops, frames):
    lots = prefix_maps._lots(crops, frames)
    assert [crop for lot in lots for crop in lot] == list(range(crops))
    assert all(len(lot) == 1 or len(lot) * frames <= prefix_maps._FRAMES_READ for lot in lots)


def test_what_is_drawn_follows_from_the_generator(small, tmp_path):
    clips, sample = prepared(small, tmp_path, crops=3).clips, build("uniform", 4)
    drawn = [clips.read(5, sample, np.random.default_rng(seed)) for seed in (0, 0, *range(1, 9))]
    assert torch.equal(drawn[0], drawn[1]) and drawn[0].shape[0] == 4
    rng = np.random.default_rng(0)
    frames = sample(clips.file.index.lengths[5], 25.0, rng)
    assert torch.equal(drawn[0], clips.file.read(5, int(rng.integers(3)), frames))
    assert len({tuple(one.flatten()[:50].tolist()) for one in drawn}) > 3
    again = pickle.loads(pickle.dumps(clips))
    assert torch.equal(again.read(5, sample, np.random.default_rng(0)), drawn[0])
    assert len(pickle.dumps(clips)) < clips.file.path.stat().st_size / 4, "other processes open the file themselves"


def test_any_workers_and_any_seed_give_the_same_file(small, tmp_path):
    one = prepared(small, tmp_path / "one")
    two = prepared(small, tmp_path / "two", workers=2, model=encoder(small, seed=1))
    assert one.path.name == two.path.name and one.path.read_bytes() == two.path.read_bytes()


def test_a_file_that_is_there_is_taken(small, tmp_path, monkeypatch):
    before = prepared(small, tmp_path).path.stat().st_mtime_ns
    monkeypatch.setattr(prefix_maps, "_length", None)  # not even measured again
    assert prepared(small, tmp_path, gigabytes=1e-9).path.stat().st_mtime_ns == before


def other_weights(folder):
    model = encoder(folder)
    with torch.no_grad():
        model.backbone.conv1[0].weight[0, 0, 0, 0] += 0.5
    return model


def test_whatever_changes_the_maps_makes_another_file(small, tmp_path, monkeypatch):
    data = shutil.copytree(small / "data", tmp_path / "data")
    make = partial(maps_of, small, tmp_path, data=data)
    names = [make().path.name]
    assert make().path.name == names[0]
    names.append(make(model=other_weights(small)).path.name)
    names.append(make(model=encoder(small, config=d2st.D2STConfig(ratio=0.5, positions=(1, 2, 3)))).path.name)
    names += [make(**change).path.name for change in ({"crops": 3}, {"flip": False}, {"jitter": 0.1})]
    names += [make(transforms="released").path.name, make(precision="bf16").path.name]
    with monkeypatch.context() as patch:
        patch.setattr(prefix_maps, "code_digest", lambda modules: "other")
        names.append(make().path.name)
    os.utime(data / "red" / "0.mp4", ns=(1, 1))
    names.append(make().path.name)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("damage", ["half", "empty", "another", "text"])
def test_half_a_file_is_not_taken(small, tmp_path, caplog, damage):
    maps = prepared(small, tmp_path)
    whole = maps.path.read_bytes()
    other = prepared(small, tmp_path, crops=1).path.read_bytes()
    damaged = {"half": whole[len(whole) // 3 :], "empty": b"", "another": other, "text": b"nothing of the kind"}
    maps.path.write_bytes(damaged[damage])
    with pytest.raises(D2STError, match=r"prefix-.*\.maps' cannot be read .*start again, and they are made anew"):
        maps_of(small, tmp_path).clips.read(0, every)
    with caplog.at_level(logging.WARNING):
        again = prepared(small, tmp_path)
    assert "they are made anew" in caplog.text
    assert again.path.read_bytes() == whole


def test_nothing_is_left_of_maps_that_were_interrupted(small, tmp_path, monkeypatch):
    maps, compute = maps_of(small, tmp_path), PrefixMaps._maps
    calls = []

    def interrupted(self, video, clip, device):
        calls.append(clip)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return compute(self, video, clip, device)

    monkeypatch.setattr(PrefixMaps, "_maps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        maps.prepare(launch(torch.device("cpu")))
    assert [path.suffix for path in tmp_path.iterdir()] in ([".lock"], [])
    monkeypatch.undo()
    prepared(small, tmp_path)
    assert maps.path.read_bytes() == prepared(small, tmp_path / "other").path.read_bytes()


def test_what_is_too_large_is_refused_before_it_is_made(small, tmp_path, monkeypatch):
    with pytest.raises(D2STError, match=r"200 frames in 2 crops would take 0.000614 GB, more than prefix_gig") as error:
        maps_of(small, tmp_path / "maps", gigabytes=1e-4)
    assert "1,536 bytes a frame at the output of layer3.0" in str(error.value)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 1000))
    with pytest.raises(D2STError, match=r"more than the 0\.0 GB that are free in"):
        maps_of(small, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()


def test_numbers_too_large_for_half_precision_are_refused(small, tmp_path):
    maps = maps_of(small, tmp_path)
    maps.suffix.prefix = lambda frames: torch.full((len(frames), *maps.suffix.map_shape), 1e6)
    with pytest.raises(D2STError, match=r"clip 'blue/0.mp4' at the output of layer3.0 are not finite in"):
        maps.prepare(launch(torch.device("cpu")))
    assert not list(tmp_path.glob("*.maps"))


def config(folder, out, **more) -> TrainConfig:
    training = {"way": 3, "episodes": 12, "episodes_per_step": 4, "validation_episodes": 20, "adapter": LATE}
    return TrainConfig(**dataset.options(folder, out=str(out), **{"prefix_crops": 2} | training | more))


def weights(run, part="final"):
    return load_file(run / part / "adapter_model.safetensors")


def same(one, two, part="final") -> bool:
    one, two = weights(one, part), weights(two, part)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_records_its_maps_and_resumes_bit_for_bit(small, tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = train(config(small, whole))
    (maps,) = (whole / "prefix").glob("*.maps")
    assert json.loads((whole / "material.json").read_text())["maps"] == {"training": maps.name}
    assert json.loads((whole / "config.json").read_text())["prefix_crops"] == 2
    assert result["best_accuracy"] > 0.4 and result["bad_clips"] == []
    forward = Trainer.forward

    def interrupted(self, unit):
        if unit.index == 5:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, unit)

    monkeypatch.setattr(Trainer, "forward", interrupted)
    with pytest.raises(SystemExit):
        train(config(small, stopped, workers=1))
    monkeypatch.undo()
    shutil.rmtree(stopped / "prefix")
    train(config(small, stopped, prefix_folder=str(tmp_path / "elsewhere"), prefix_gigabytes=2.0))
    assert "goes on from episode 8 of 12" in capsys.readouterr().out
    assert same(whole, stopped) and same(whole, stopped, "best")
    assert (whole / "metrics.jsonl").read_text() == (stopped / "metrics.jsonl").read_text()
    with pytest.raises(D2STError, match="prefix_crops is 2 there and 3 here"):
        train(config(small, stopped, prefix_crops=3))


def test_a_run_of_an_earlier_version_goes_on_without(small, tmp_path):
    train(config(small, tmp_path, prefix_crops=0))
    settings = json.loads((tmp_path / "config.json").read_text())
    kept = {name: value for name, value in settings.items() if not name.startswith("prefix_")}
    assert len(kept) == len(settings) - 3
    (tmp_path / "config.json").write_text(json.dumps(kept))
    train(config(small, tmp_path, prefix_crops=0))
    assert not (tmp_path / "prefix").exists()


def test_unreadable_clips_are_replaced_by_rule_and_reported(small, tmp_path):
    data = shutil.copytree(small / "data", tmp_path / "data")
    (data / "red" / "3.mp4").write_bytes(b"gone")
    result = train(config(small, tmp_path / "maps", data=str(data), episodes=24, validate_every=0))
    plain = train(config(small, tmp_path / "frames", data=str(data), episodes=24, validate_every=0, prefix_crops=0))
    assert [clip["id"] for clip in result["bad_clips"]] == ["red/3.mp4"]
    assert result["bad_clips"] == plain["bad_clips"]
    with pytest.raises(D2STError, match="1 clips could not be read, more than max_bad = 1% of 20"):
        train(config(small, tmp_path / "strict", data=str(data), episodes=24, max_bad=0.01))


def test_a_clip_that_can_be_read_again_gets_its_maps(small, tmp_path, monkeypatch):
    """The file itself has not changed; rights or a network were in the way."""
    whole, length, clip = prepared(small, tmp_path / "whole").path.read_bytes(), prefix_maps._length, 12

    def unreadable(path):
        return "no permission" if path.parts[-2:] == ("red", "2.mp4") else length(path)

    with monkeypatch.context() as patch:
        patch.setattr(prefix_maps, "_length", unreadable)
        maps = prepared(small, tmp_path)
        before = maps.path.stat().st_mtime_ns
        assert prepared(small, tmp_path).path.stat().st_mtime_ns == before
    with pytest.raises(VideoError, match="no permission"):
        maps.clips.read(clip, every)
    again = prepared(small, tmp_path)
    assert again.path == maps.path and again.path.read_bytes() == whole
    assert len(again.clips.read(clip, every)) == again.clips.file.index.lengths[clip] > 0
    expected = again.clips.read(clip + 1, every)
    assert torch.equal(maps.clips.read(clip + 1, every), expected)  # of a run that had opened the file of before


def test_diagnoses_are_of_the_maps(small, tmp_path):
    train(config(small, tmp_path, diagnose_every=4, validate_every=0))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all("layer3_0.temporal.entropy" in line and "gradient.up" in line for line in lines)
    train(config(small, tmp_path / "plain", validate_every=0))
    assert same(tmp_path, tmp_path / "plain")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"head": "molo"}, "head 'molo' takes the frames themselves"),
        ({"transforms": "released"}, "give --augment all, or train without"),
        ({"grad_checkpointing": True}, "prefix_crops and grad_checkpointing exclude each other"),
        ({"adapter": d2st.FullConfig()}, "'full' trains the backbone from its input on"),
        ({"prefix_gigabytes": 1e-6}, "more than prefix_gigabytes = 1e-06"),
        ({"prefix_crops": -1}, "prefix_crops=-1 must be a whole number from 0"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(small, tmp_path, more, said):
    with pytest.raises(D2STError, match=said):
        train(config(small, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [{"precision": "bf16"}, {"transforms": "released", "augment": "all"}, {"head": "trx"}])
def test_options_run(small, tmp_path, more):
    train(config(small, tmp_path, episodes=4, validate_every=0, class_loss=0.5, symmetric=True, **more))
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())


SCRIPT = """
import json, sys, torch
from d2st.adapters import D2STConfig
from d2st.commands.train import TrainConfig, train
torch.set_num_threads(1)
train(TrainConfig(**json.loads(sys.argv[1]), adapter=D2STConfig(ratio=0.5, positions=(2, 3))))
"""


def test_processes_share_the_work_and_the_file(small, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    training = {"way": 3, "episodes": 8, "episodes_per_step": 4, "validate_every": 0, "prefix_crops": 2}
    settings = json.dumps(dataset.options(small, out=str(tmp_path / "two"), **training))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run([*command, settings], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    train(config(small, tmp_path / "one", **training))
    (shared,), (own,) = ((tmp_path / run / "prefix").glob("*.maps") for run in ("two", "one"))
    assert shared.name == own.name and shared.read_bytes() == own.read_bytes()
    assert [path.suffix for path in shared.parent.iterdir() if path != shared] == [".lock"]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)


def test_rendered_clips_are_trained_on_and_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {part: names[:2] for part, names in split().items()}
    render = RenderConfig(side=48, shortest=8, longest=10, clips={"train": 3, "val": 3, "test": 3}, workers=0)
    for _ in write_benchmark(tmp_path, render, parts):
        pass
    data = ["--data", "clips", "--split", "split.yaml"]
    model = [
        "--backbone",
        "d2st_stills",
        "--image-size",
        "64",
        "--frames",
        "4",
        "--adapter",
        "d2st",
        "--adapter.positions",
        "[2,3]",
    ]
    more = ["--way", "2", "--episodes", "4", "--episodes-per-step", "2", "--validation-episodes", "10"]
    assert cli.main(["train", *data, *model, *more, "--prefix-crops", "2", "--out", "run"]) == 0
    assert list((tmp_path / "run" / "prefix").glob("*.maps"))
    evaluation = ["--adapter", "run/best", "--way", "2", "--shot", "1", "--episodes", "20", "--out", "eval"]
    assert cli.main(["eval", *data, *evaluation]) == 0
    assert (tmp_path / "eval" / "eval.json").exists()
