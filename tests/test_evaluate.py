"""``d2st eval`` on real files."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import small
import torch
from safetensors.torch import load_file

import d2st
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.data.episodes import EpisodeSampler
from d2st.errors import D2STError


def config(folder, **more) -> EvalConfig:
    return EvalConfig(**small.options(folder, **{"way": 3, "shot": (1, 3), "queries": 2, "episodes": 50} | more))


def test_result_says_what_was_measured_and_how(small, tmp_path, capsys) -> None:
    result = evaluate(config(small, out=str(tmp_path / "new" / "out")))
    written = json.loads((tmp_path / "new" / "out" / "eval.json").read_text())
    assert {"command", "config", "versions", "git", "time"} < written.keys() and written["config"]["seed"] == 0
    assert written["results"] == result["results"] and written["bad_clips"] == []
    assert [(r["way"], r["shot"], r["episodes"]) for r in result["results"]] == [(3, 1, 50), (3, 3, 50)]
    for r in result["results"]:
        confusion = np.array(r["confusion"])
        assert confusion.sum() == 50 * 3 * 2
        assert r["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
        assert list(r["per_class"]) == ["pink", "sand", "teal"]
        assert r["per_class"]["sand"] == pytest.approx(confusion[1, 1] / confusion[1].sum())
    printed = capsys.readouterr().out
    assert "3-way 3-shot" in printed and "±" in printed and "teal" in printed and "nan" not in printed


def test_classes_of_the_training_are_told(small, tmp_path, capsys) -> None:
    encoder = d2st.adapt("test_resnet", d2st.STConfig(), frames=4, pretrained=small / "weights.safetensors")
    encoder.save_pretrained(tmp_path / "best")
    options = dataclasses.replace(
        config(small, shot=1), adapter_path=str(tmp_path / "best"), backbone=None, image_size=None
    )
    assert evaluate(options)["trained_on"] == []  # nothing says what it was trained on
    about = {"clips": 4, "names": "", "bytes": ""}
    record = {"format": 1, "clips": {"training": {"pink": about, "blue": about}, "validation": {}}}
    (tmp_path / "material.json").write_text(json.dumps(record))
    assert evaluate(options)["trained_on"] == ["pink"]
    assert "The model was trained on 1 of these 3 classes: 'pink'. Accuracies on them say" in capsys.readouterr().out
    result = evaluate(dataclasses.replace(options, split=None))
    assert result["part"] == "all" and "blue" in result["trained_on"]
    assert f"Accuracy in percent on {len(result['results'][0]['per_class'])} classes, " in capsys.readouterr().out
    (tmp_path / "material.json").write_text("{")
    assert evaluate(options)["trained_on"] == []


def test_one_episode_has_no_interval(small, tmp_path) -> None:
    evaluate(config(small, shot=1, episodes=1, out=str(tmp_path)))
    written = json.loads((tmp_path / "eval.json").read_text(), parse_constant=pytest.fail)
    assert written["results"][0]["interval"] is None


def test_equals_encoding_every_clip_in_every_episode(small) -> None:
    """The whole path against the naive one: read, encode and match each episode by itself."""
    from d2st.data.datasets import open_dataset
    from d2st.data.sampling import build
    from d2st.data.transforms import eval_transform

    result = evaluate(config(small, shot=1, episodes=12))
    encoder = d2st.adapt(
        "test_resnet", d2st.NoneConfig(), frames=4, pretrained=small / "weights.safetensors", image_size=32
    )
    clips = open_dataset(small / "data", small / "split.yaml", "test")
    transform, sample = eval_transform(32, encoder.mean, encoder.std, encoder.interpolation), build("uniform", 4)
    sampler, head, right = EpisodeSampler(clips.labels, 3, 1, 2), d2st.heads.build("bi-mhm"), 0

    @torch.no_grad()
    def encode(indices):
        return encoder(torch.stack([transform(clips.read(int(i), sample, None)) for i in indices]))

    for index in range(12):
        e = sampler.draw(index)
        logits = head(encode(e.support), torch.from_numpy(e.support_labels), encode(e.query))
        right += (logits.argmax(1).numpy() == e.query_labels).sum()
    assert result["results"][0]["accuracy"] == pytest.approx(right / (12 * 6))


def test_clips_come_to_the_device_as_bytes(small, monkeypatch) -> None:
    from d2st.features import encode

    read, run = [], encode.run_clips

    def spy(model, forward, clips, view, **loading):
        read.append(view(0, 0).dtype)
        return run(model, forward, clips, view, **loading)

    monkeypatch.setattr(encode, "run_clips", spy)
    evaluate(config(small, shot=1, episodes=2))
    assert read == [torch.uint8]


def test_features_are_encoded_once(small, tmp_path, monkeypatch) -> None:
    import d2st.commands.evaluate as module

    calls, encode = [], module.encode_clips
    monkeypatch.setattr(module, "encode_clips", lambda *a, **k: calls.append(1) or encode(*a, **k))
    first = evaluate(config(small, out=str(tmp_path)))
    assert evaluate(config(small, out=str(tmp_path)))["results"] == first["results"]
    assert len(calls) == 1
    evaluate(config(small, out=str(tmp_path), shot=1, way=2, seed=3))  # another protocol on the same features
    assert len(calls) == 1
    evaluate(config(small, out=str(tmp_path), frames=3))
    evaluate(config(small, out=str(tmp_path), adapter=d2st.D2STConfig()))
    assert len(calls) == 3
    (tmp_path / "features-0.safetensors").touch()
    for file in tmp_path.glob("features-*"):
        file.write_bytes(file.read_bytes()[:50])  # torn by someone
    assert evaluate(config(small, out=str(tmp_path)))["results"] == first["results"]
    assert len(calls) == 4


def test_a_changed_clip_is_encoded_again(small, tmp_path) -> None:
    data = shutil.copytree(small / "data", tmp_path / "data")
    evaluate(config(small, data=str(data), out=str(tmp_path)))
    shutil.copy(data / "teal" / "0.mp4", data / "pink" / "0.mp4")
    evaluate(config(small, data=str(data), out=str(tmp_path)))
    one, two = (load_file(f)["values"] for f in tmp_path.glob("features-*"))
    changed = (one != two).flatten(1).any(1)
    assert changed.tolist() == [True] + [False] * 14


def test_a_bad_clip_is_left_out_and_listed(small, tmp_path, capsys) -> None:
    data = shutil.copytree(small / "data", tmp_path / "data")
    (data / "sand" / "2.mp4").write_bytes(b"not a video")
    for _ in range(2):  # the second time from the cache
        result = evaluate(config(small, data=str(data), shot=1, out=str(tmp_path)))
        assert [clip["id"] for clip in result["bad_clips"]] == ["sand/2.mp4"] and result["clips"] == 14
        assert "Left out, cannot be read: sand/2.mp4" in capsys.readouterr().out
    for n in (0, 1):
        (data / "sand" / f"{n}.mp4").write_bytes(b"not a video")
    with pytest.raises(D2STError, match=r"too few are in: sand \(2\)"):
        evaluate(config(small, data=str(data), shot=1))


def test_a_clip_that_can_be_read_again_is_not_left_out_for_ever(small, tmp_path, monkeypatch) -> None:
    from d2st.data import datasets
    from d2st.data.video.errors import VideoError

    def read(path, *arguments):
        if path.parts[-2:] == ("sand", "2.mp4"):
            raise VideoError(path, "there is no permission to read it")
        return read_clip(path, *arguments)

    whole, read_clip = evaluate(config(small, shot=1)), datasets.read_clip
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "read_clip", read)
        for _ in range(2):  # the second time from the cache
            result = evaluate(config(small, shot=1, out=str(tmp_path)))
            assert [clip["id"] for clip in result["bad_clips"]] == ["sand/2.mp4"]
    seen = []
    monkeypatch.setattr(datasets, "read_clip", lambda path, *more: (seen.append(path.name), read_clip(path, *more))[1])
    for _ in range(2):
        result = evaluate(config(small, shot=1, out=str(tmp_path)))  # the file itself has not changed
        assert result["bad_clips"] == [] and result["clips"] == 15 and result["results"] == whole["results"]
    assert seen == ["2.mp4"]  # the others had been kept, and now it is too


def test_random_frames_and_views(small) -> None:
    center = evaluate(config(small, shot=1))
    drawn = evaluate(config(small, shot=1, test_frames="random", views=3))
    assert drawn["results"][0]["episodes"] == 50 and center["clips"] == drawn["clips"] == 15
    with pytest.raises(D2STError, match="together with random test frames"):
        evaluate(config(small, views=3))


def test_workers_and_batches_change_nothing(small, tmp_path) -> None:
    for name, more in {"a": {}, "b": {"workers": 2, "batch_size": 1}}.items():
        evaluate(config(small, out=str(tmp_path / name), test_frames="random", views=2, **more))
    one, two = (load_file(next((tmp_path / n).glob("features-*")))["values"] for n in "ab")
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"shot": 9}, r"9 shot and 2 queries need 11 clips in every class"),
        ({"way": 4}, "has 3: pink, sand, teal"),
        ({"episodes": 0}, "episodes=0 must be a whole number from 1"),
        ({"head": "nearest"}, "no head named 'nearest'"),
        ({"device": "tpu7"}, "device 'tpu7' cannot be used"),
        ({"precision": "fp8"}, "precision='fp8' must be 'auto', 'fp32', 'bf16' or 'fp16'"),
    ],
)
def test_wrong_options_are_refused_with_a_sentence(small, more: dict, said: str) -> None:
    with pytest.raises(D2STError, match=said):
        evaluate(config(small, **more))
