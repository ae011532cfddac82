"""Encoders whose clips see each other: how they train, how they are measured, and who refuses them."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import small
import timm
import torch
from families import BACKBONES, FRAMES, SIZE, clips, move
from safetensors.torch import save_file
from test_processes import finish, start

import d2st
from d2st import heads
from d2st.commands import cli
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.train import TrainConfig, train
from d2st.data.episodes import EpisodeSampler
from d2st.data.sampling import build
from d2st.export import export_encoder
from d2st.features.prefix import split_encoder
from d2st.training.episodic import EpisodicLoss

TOGETHER = d2st.TaskAdapterConfig(videos="together", positions=(4, 5))
REFUSED = r"clips of a call see each other.*--validate-every 0.*eval --transductive.*nothing else takes it"


def encoder_of(config=TOGETHER):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), replace(config, positions="late"), frames=FRAMES, image_size=SIZE)
    move(encoder)
    return encoder


def with_vit(folder, weights):
    """The small dataset's options, with a ViT."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=0, img_size=small.SIDE).state_dict(), weights)
    return small.options(folder, backbone="test_vit", weights=str(weights))


@pytest.fixture(scope="module")
def vit(small, tmp_path_factory):
    return with_vit(small, tmp_path_factory.mktemp("vit") / "vit.safetensors")


@pytest.fixture(scope="module")
def trained(vit, tmp_path_factory):
    """Options with an adapter that was trained."""
    out = tmp_path_factory.mktemp("trained") / "run"
    episodes = {"way": 3, "shot": 2, "queries": 1, "episodes": 6, "episodes_per_step": 2, "lr": 0.01}
    result = train(TrainConfig(**vit, **episodes, adapter=TOGETHER, validate_every=0, out=str(out)))
    assert result["system"]["videos"] == "together" and result["best_episode"] == 6
    return {key: value for key, value in vit.items() if key != "backbone"} | {"adapter_path": str(out / "best")}


def asked(trained, **more):
    return EvalConfig(**trained | {"way": 3, "shot": (1, 2), "queries": 2, "episodes": 8, "transductive": True} | more)


@pytest.mark.parametrize("head", ["bi-mhm", "strm"])
def test_a_training_episode_has_a_pass_for_its_supports_and_one_for_its_queries(head):
    encoder, video = encoder_of(), clips(batch=3 * 2 + 3)
    head = d2st.create_head(head, encoder, classes=3).eval()
    loss = EpisodicLoss(encoder, head, 3, 2, 1)
    value, _ = loss(video, torch.arange(3))
    support, query = (encoder.features_and_maps(part) for part in (video[:6], video[6:]))
    if head.takes == "maps":
        support, query = head.clips_of(*support), head.clips_of(*query)
    else:
        support, query = support[0], query[0]
    labels = torch.arange(3)
    episode = heads.EncodedEpisode(support, labels.repeat_interleave(2), query, labels, labels)
    torch.testing.assert_close(value, head.loss(episode)[0], rtol=1e-4, atol=1e-5)


def test_maps_of_what_lies_before_the_first_adapter_train_it_too():
    """There each frame is by itself."""
    encoder, video, classes = encoder_of(replace(TOGETHER, temporal_embedding=False)), clips(batch=4), torch.arange(2)
    suffix, episode = split_encoder(encoder), (encoder, heads.build("bi-mhm"), 2, 1, 1)
    maps = suffix.prefix(video.flatten(0, 1)).unflatten(0, video.shape[:2])
    found, _ = EpisodicLoss(*episode, suffix=suffix)(maps, classes)
    torch.testing.assert_close(found, EpisodicLoss(*episode)(video, classes)[0], rtol=1e-4, atol=1e-5)


def test_rotations_of_an_episode_are_refused():
    with pytest.raises(d2st.D2STError, match=r"symmetric matches clips .* train without it"):
        EpisodicLoss(encoder_of(), heads.build("bi-mhm"), 3, 2, 1, symmetric=True)


def test_an_evaluation_equals_encoding_each_episode_in_two_calls(trained, tmp_path, capsys):
    result = evaluate(asked(trained, out=str(tmp_path)))
    encoder = d2st.load(trained["adapter_path"], weights=trained["weights"])
    test = d2st.open_dataset(trained["data"], trained["split"], "test")
    transform, sample, head = encoder.transform(), build("uniform", small.FRAMES), heads.build("bi-mhm")

    @torch.no_grad()
    def encode(indices):
        return encoder(torch.stack([transform(test.read(int(i), sample)) for i in indices]))

    for found in result["results"]:
        sampler, confusion = EpisodeSampler(test.labels, 3, found["shot"], 2), np.zeros((3, 3), dtype=int)
        for index in range(8):
            episode = sampler.draw(index)
            logits = head(encode(episode.support), torch.from_numpy(episode.support_labels), encode(episode.query))
            np.add.at(confusion, (episode.classes[episode.query_labels], episode.classes[logits.argmax(1)]), 1)
        assert found["confusion"] == confusion.tolist() and found["episodes"] == 8
        assert found["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    written = json.loads((tmp_path / "eval.json").read_text())
    assert written["transductive"] is True and written["results"] == result["results"]
    assert "Transductive: the queries of an episode" in capsys.readouterr().out
    assert not list(tmp_path.glob("features-*"))


def test_reading_in_other_processes_changes_nothing_also_for_heads_that_take_maps(trained):
    one, two = (evaluate(asked(trained, head="strm", shot=1, episodes=3, workers=workers)) for workers in (0, 2))
    assert one["results"] == two["results"]


def test_processes_share_the_episodes_and_leave_out_what_cannot_be_read(trained, tmp_path):
    data = shutil.copytree(trained["data"], tmp_path / "data")
    (data / "sand" / "3.mp4").write_bytes(b"no video")
    common = ["--data", str(data), "--split", trained["split"], "--weights", trained["weights"], "--transductive"]
    common += ["--adapter", trained["adapter_path"], "--way", "3", "--shot", "1", "--episodes", "15"]
    results = []
    for processes in (1, 2):
        finish(start("eval", *common, "--out", str(tmp_path / str(processes)), processes=processes))
        results.append(json.loads((tmp_path / str(processes) / "eval.json").read_text()))
    one, two = results
    assert one["results"] == two["results"] and one["clips"] == two["clips"] == 14
    assert [clip["id"] for clip in one["bad_clips"]] == [clip["id"] for clip in two["bad_clips"]] == ["sand/3.mp4"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"transductive": False}, REFUSED),
        ({"heads": "all"}, "transductive encodes .* anew, for one head .*leave out heads"),
        ({"open_set": True, "test_frames": "random"}, "leave out open_set, test_frames random"),
        ({"search_mixing": True, "part": "val"}, "leave out search_mixing"),
    ],
)
def test_what_does_not_go_with_it_is_refused(trained, more, said):
    with pytest.raises(d2st.D2STError, match=said):
        evaluate(asked(trained, **more))


def test_an_adapter_that_sees_each_clip_alone_is_not_measured_so(vit):
    with pytest.raises(d2st.D2STError, match=r"'task-adapter' sees each clip alone.*leave that out"):
        evaluate(EvalConfig(**vit, way=3, shot=1, adapter=d2st.TaskAdapterConfig(), transductive=True))


def test_a_validation_is_refused_before_the_first_episode(vit, tmp_path):
    with pytest.raises(d2st.D2STError, match=REFUSED):
        train(TrainConfig(**vit, way=2, shot=1, queries=1, episodes=2, adapter=TOGETHER, out=str(tmp_path)))
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "use",
    [
        lambda encoder, folder: d2st.FewShotClassifier(encoder),
        lambda encoder, folder: d2st.VideoClassifier(encoder, 5),
        lambda encoder, folder: export_encoder(encoder, folder / "encoder.pt2"),
    ],
    ids=["few-shot classifier", "classifier", "export"],
)
def test_what_takes_each_clip_by_itself_refuses_it(use, tmp_path):
    with pytest.raises(d2st.D2STError, match=REFUSED):
        use(encoder_of(), tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "predict --query {data}/pink/0.mp4 --support {data}",
        "spot --video {data}/pink/0.mp4 --support {data}",
        "live --source {data}/pink/0.mp4 --support {data}",
        "visualize --query {data}/pink/0.mp4 --support {data} --out {out}",
        "export --out {out}",
        "eval --data {data} --split {split} --way 3 --shot 1",
    ],
    ids=lambda command: command.split()[0],
)
def test_so_do_the_commands(trained, command, tmp_path, capsys):
    filled = command.format(**trained, out=tmp_path / "out").split()
    assert cli.main([*filled, "--adapter", trained["adapter_path"], "--weights", trained["weights"]]) == 2
    assert "nothing else takes it" in " ".join(capsys.readouterr().err.split())
