"""``d2st train``: what it learns, leaves behind, refuses and survives."""

import json
import shutil
import signal

import pytest
import small
import torch
from safetensors.torch import load_file

import d2st
from d2st.commands.train import TrainConfig, train
from d2st.data.datasets import open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.data.loaders import EpisodeClips
from d2st.data.sampling import build
from d2st.data.transforms import train_transform
from d2st.errors import D2STError
from d2st.training.episodic import EpisodicLoss
from d2st.training.trainer import Trainer


def config(folder, out, **more) -> TrainConfig:
    settings = {"way": 3, "shot": 1, "queries": 1, "episodes": 12, "episodes_per_step": 4, "validation_episodes": 20}
    return TrainConfig(**small.options(folder, out=str(out), **settings | more))


def episodes(folder, **more) -> EpisodeClips:
    clips = open_dataset(folder / "data", folder / "split.yaml", "train")
    transform = train_transform(32, (0.5,) * 3, (0.5,) * 3, jitter=0.4)
    return EpisodeClips(clips, EpisodeSampler(clips.labels, 3, 1, 2, **more), build("uniform", 4), transform, transform)


def test_the_adapter_learns_and_the_backbone_stays(small, tmp_path) -> None:
    result = train(config(small, tmp_path, way=2, queries=2, symmetric=True, lr=3e-3, episodes=40))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert [line["episode"] for line in lines if "loss" in line] == list(range(4, 41, 4))
    assert result["best_accuracy"] == max(x["validation_accuracy"] for x in lines if "validation_accuracy" in x)
    frozen = load_file(small / "weights.safetensors")
    encoder = d2st.load(tmp_path / "best", weights=small / "weights.safetensors")
    assert all(torch.equal(encoder.backbone.state_dict()[name], frozen[name]) for name in frozen if "fc" not in name)
    assert any(tensor.abs().max() > 0 for name, tensor in encoder.adapter_state_dict().items() if ".up." in name)
    assert json.loads((tmp_path / "config.json").read_text())["adapter"]["name"] == "d2st-local"
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert json.loads((tmp_path / "train.json").read_text())["episodes"] == 40


@pytest.mark.parametrize("how", ["adapter", "run"])
def test_offsets_that_have_a_share_of_the_learning_rate_move_less(small, tmp_path, how) -> None:
    published = {"adapter": d2st.D2STConfig()}
    asked = {"adapter": d2st.D2STConfig(offset_lr=0.01)} if how == "adapter" else {"lr_shares": (".points.=0.01",)}

    def moved(name, **more) -> tuple[float, float]:
        """How far the offset networks and the rest come from where they began."""
        begin, trained = (tmp_path / name / folder for folder in ("begin", "trained"))
        for out, lr in ((begin, 0.0), (trained, 1e-3)):
            train(config(small, out, lr=lr, validate_every=0, weight_decay=0.0, **more))
        one, two = (load_file(out / "final" / "adapter_model.safetensors") for out in (begin, trained))
        far = {key: float((one[key] - two[key]).abs().max()) for key in one}
        offsets = [key for key in far if ".points." in key]
        return max(far[key] for key in offsets), max(far[key] for key in far.keys() - offsets)

    plain, shared = moved("plain", **published), moved("shared", **published | asked)
    assert 0 < shared[0] < 0.05 * plain[0]
    assert 0.5 < shared[1] / plain[1] < 2


def test_gradient_scale_is_undone_by_adam_but_for_weight_decay(small, tmp_path) -> None:
    """The released code's 1e-3 on four times the mean gradient is 2.5e-4 on the mean, up to Adam's epsilon."""

    def weights(name, **more):
        adapter = d2st.D2STConfig()
        train(config(small, tmp_path / name, adapter=adapter, validate_every=0, lr=1e-3, no_decay=(), **more))
        tensors = load_file(tmp_path / name / "final" / "adapter_model.safetensors")
        return torch.cat([tensor.flatten() for key, tensor in tensors.items() if key.endswith("down.weight")])

    plain = weights("plain", weight_decay=0.25)
    released = weights("released", weight_decay=1.0, gradient_scale=4.0)
    other = weights("other", weight_decay=1.0)
    assert torch.allclose(plain, released, rtol=0, atol=1e-5)
    assert (plain - other).abs().max() > 1e-4


def test_augment_says_which_clips_are_jittered() -> None:
    encoder = d2st.adapt("test_resnet", frames=4, pretrained=False, image_size=32)
    clip = torch.randint(0, 256, (4, 3, 40, 48), dtype=torch.uint8)

    def colors(transform):
        torch.manual_seed(0)
        return {round(float(transform(clip).mean()), 4) for _ in range(8)}

    for augment, support_varies in (("queries", False), ("all", True)):
        transforms = encoder.preprocessing.episode_transforms("released", flip=False, jitter=0.0, augment=augment)
        support, query = transforms
        spread = [max(seen) - min(seen) for seen in (colors(support), colors(query))]
        assert (spread[0] > 0.2) == support_varies and spread[1] > 0.2


def test_accumulation_is_the_mean_gradient(small, tmp_path, monkeypatch) -> None:
    """A step over 4 episodes uses the mean of their gradients, whatever accumulates them."""
    grads = []
    step = torch.optim.Adam.step

    def spy(self, *args, **kwargs):
        grads.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    for size in (4, 1):  # a rate of zero: the single steps start from the same weights
        train(config(small, tmp_path / str(size), episodes=4, episodes_per_step=size, lr=0.0, validate_every=0))
    for mean, *each in zip(*grads, strict=True):
        torch.testing.assert_close(mean, torch.stack(each).mean(0), rtol=1e-4, atol=1e-7)


def test_workers_change_nothing(small, tmp_path) -> None:
    for workers in (0, 2):
        train(config(small, tmp_path / str(workers), workers=workers, jitter=0.3))
    one, two = (load_file(tmp_path / n / "final" / "adapter_model.safetensors") for n in "02")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_clips_come_to_the_device_as_bytes(small, tmp_path, monkeypatch) -> None:
    given, taken, onto = [], [], Trainer.to_device

    def spy(self, unit):
        given.append(unit.video.dtype)
        taken.append(onto(self, unit))
        return taken[-1]

    monkeypatch.setattr(Trainer, "to_device", spy)
    train(config(small, tmp_path, jitter=0.3, episodes=4, diagnose_every=4, validate_every=0))
    assert set(given) == {torch.uint8} and len(given) == 5
    assert {video.dtype for video in taken} == {torch.float32}
    assert min(video.min() for video in taken) < 0  # normalized


def test_no_validation_classes_keeps_the_last(small, tmp_path, capsys) -> None:
    result = train(config(small, tmp_path, split=None))
    assert "No validation, the last adapter will be the best" in capsys.readouterr().out
    assert result["best_accuracy"] is None and result["best_episode"] == 12
    best, final = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("best", "final"))
    assert all(torch.equal(best[name], final[name]) for name in best)


def test_starts_from_a_trained_adapter(small, tmp_path) -> None:
    train(config(small, tmp_path / "a"))
    more = {"adapter_path": str(tmp_path / "a" / "final"), "lr": 0.0}
    train(config(small, tmp_path / "b", **more))
    one, two = (load_file(tmp_path / n / "final" / "adapter_model.safetensors") for n in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_folder_belongs_to_one_configuration(small, tmp_path) -> None:
    train(config(small, tmp_path))
    with pytest.raises(
        D2STError, match=r"another configuration: lr is 0.001 there and 0.01 here; way is 3 there and 2 here"
    ):
        train(config(small, tmp_path, lr=1e-2, way=2))
    before, told = ((tmp_path / name).read_text() for name in ("metrics.jsonl", "train.json"))
    train(config(small, tmp_path, workers=1, checkpoint_minutes=9))  # these may change; the run is complete
    assert (tmp_path / "metrics.jsonl").read_text() == before
    assert (tmp_path / "train.json").read_text() == told  # nothing was trained at this start
    train(config(small, tmp_path, lr=1e-2, overwrite=True))
    assert json.loads((tmp_path / "config.json").read_text())["lr"] == 1e-2
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(before.splitlines())


def test_the_result_names_the_adapter_that_was_trained(small, tmp_path) -> None:
    model = {"frames": 4, "image_size": 32, "pretrained": str(small / "weights.safetensors")}
    encoder = d2st.adapt("test_resnet", d2st.STConfig(ratio=0.5), **model)
    result = train(config(small, tmp_path, episodes=4, validate_every=0), encoder)
    assert (result["system"]["name"], result["system"]["ratio"]) == ("st", 0.5)


def test_another_adapter_is_told_by_its_name_and_another_setting_of_it_by_its_own(small, tmp_path) -> None:
    def again(adapter):
        return train(config(small, tmp_path, adapter=adapter, episodes=4, validate_every=0))

    again(d2st.D2STConfig())
    with pytest.raises(
        D2STError, match=r"configuration: adapter is d2st there and d2st-local here\. Give what is there"
    ):
        again(d2st.D2STLocalConfig())
    with pytest.raises(
        D2STError, match=r"configuration: adapter.ratio is 0.25 there and 0.5 here\. Give what is there"
    ):
        again(d2st.D2STConfig(ratio=0.5))


def test_a_run_goes_on_only_with_the_clips_it_began_with(small, tmp_path, monkeypatch) -> None:
    data = shutil.copytree(small / "data", tmp_path / "data")
    forward = Trainer.forward
    monkeypatch.setattr(Trainer, "forward", lambda *a: signal.raise_signal(signal.SIGTERM) or forward(*a))
    with pytest.raises(SystemExit):
        train(config(small, tmp_path / "run", data=str(data)))
    shutil.copy(data / "red" / "0.mp4", data / "red" / "7.mp4")
    with pytest.raises(D2STError, match=r"are not those that the run in .* began with"):
        train(config(small, tmp_path / "run", data=str(data)))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_the_run(small, tmp_path, monkeypatch, where: str) -> None:
    match, calls = EpisodicLoss.match, []

    def broken(self, features, *rest):
        loss, accuracy = match(self, features, *rest)
        calls.append(1)
        if len(calls) == 7:  # episode 6, in the second step of 4
            loss = loss * torch.nan if where == "loss" else loss + (features * 0).sum().sqrt()  # d sqrt(0) = inf
        return loss, accuracy

    monkeypatch.setattr(EpisodicLoss, "match", broken)
    said = "loss of episode 6 is nan" if where == "loss" else "gradient of episodes 4 to 7 has norm nan"
    with pytest.raises(D2STError, match=said + r".*last good state, at episode 4, is .*last\.safetensors"):
        train(config(small, tmp_path))
    state = load_file(tmp_path / "last.safetensors")
    assert all(tensor.isfinite().all() for tensor in state.values())
    monkeypatch.undo()
    train(config(small, tmp_path))  # goes on, and to the same end
    train(config(small, tmp_path / "whole"))
    one, two = (load_file(p / "final" / "adapter_model.safetensors") for p in (tmp_path, tmp_path / "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_so(small, tmp_path, monkeypatch, capsys, number: int) -> None:
    forward = Trainer.forward

    def interrupted(self, unit):
        if unit.index == 4:
            signal.raise_signal(number)
        return forward(self, unit)

    monkeypatch.setattr(Trainer, "forward", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train(config(small, tmp_path))
    assert stopped.value.code == 128 + number
    assert "Stopped at episode 8, saved in" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    monkeypatch.undo()
    train(config(small, tmp_path))
    assert "goes on from episode 8 of 12" in capsys.readouterr().out


def test_a_clip_that_turns_bad_is_replaced_by_rule_and_reported(small, tmp_path) -> None:
    data = shutil.copytree(small / "data", tmp_path / "data")
    whole = episodes(small)
    target = 0
    drawn = whole.sampler.draw(target)
    victim = int(drawn.query[1])
    bad = data / whole.clips.clips[victim].id
    bad.write_bytes(b"gone")
    shutil.copy(small / "split.yaml", tmp_path / "split.yaml")
    broken = episodes(tmp_path)
    before, after = whole[target], broken[target]
    assert list(after.bad) == [whole.clips.clips[victim].id] and not after.failure
    position = 3 + 1
    others = [i for i in range(9) if i != position]
    assert torch.equal(before.video[others], after.video[others])
    assert not torch.equal(before.video[position], after.video[position])
    # the stand-in is the class's first spare
    spare = int(drawn.spares[int(drawn.query_labels[1])][0])
    monkey = episodes(small)
    swapped = d2st.data.episodes.Episode(
        drawn.support, drawn.support_labels, drawn.query.copy(), drawn.query_labels, drawn.classes, drawn.spares
    )
    swapped.query[1] = spare
    monkey.sampler.draw = lambda index: swapped
    assert torch.equal(monkey[target].video[position], after.video[position])

    result = train(config(small, tmp_path / "run", data=str(data), episodes=24, queries=2))
    assert [clip["id"] for clip in result["bad_clips"]] == [whole.clips.clips[victim].id]
    assert json.loads((tmp_path / "run" / "bad_clips.json").read_text()) == result["bad_clips"]
    with pytest.raises(D2STError, match=r"1 clips could not be read, more than max_bad = 1% of 20"):
        train(config(small, tmp_path / "strict", data=str(data), episodes=24, queries=2, max_bad=0.01))


def test_a_class_without_readable_clips_stops_the_run(small, tmp_path) -> None:
    data = shutil.copytree(small / "data", tmp_path / "data")
    for file in (data / "red").iterdir():
        file.write_bytes(b"gone")
    with pytest.raises(
        D2STError, match=r"Episode \d+ finds no readable clip left in class 'red'.*The state at episode"
    ):
        train(config(small, tmp_path / "run", data=str(data), max_bad=1.0))


def test_an_episode_s_tensors_depend_on_nothing_but_seed_and_index(small) -> None:
    one, two = episodes(small), episodes(small)
    torch.manual_seed(1)
    first = [one[i].video for i in (0, 1, 2)]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = [two[i].video for i in (2, 1, 0)][::-1]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state()), "reading must not disturb the caller's random numbers"
    assert not torch.equal(first[0], episodes(small, seed=1)[0].video)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"way": 5}, "has 4: blue, green, red, white"),
        ({"shot": 5}, r"too few are in: blue \(5\), green \(5\), red \(5\), white \(5\)"),
        ({"adapter": d2st.NoneConfig()}, "Neither the adapter 'none' nor the head 'bi-mhm' has anything to train"),
        ({"episodes_per_step": 0}, "episodes_per_step=0 must be a whole number from 1"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"schedule": "linear"}, "schedule='linear' must be 'step' or 'cosine'"),
        ({"head": "nearest"}, "no head named 'nearest'"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(small, tmp_path, more: dict, said: str) -> None:
    with pytest.raises(D2STError, match=said):
        train(config(small, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "more", [{"precision": "bf16"}, {"grad_checkpointing": True}, {"transforms": "released", "class_loss": 1.0}]
)
def test_options_run(small, tmp_path, more: dict) -> None:
    train(config(small, tmp_path, episodes=6, validate_every=0, schedule="cosine", clip_norm=1.0, **more))
    weights = tmp_path / "final" / "adapter_model.safetensors"
    assert weights.stat().st_mode == (tmp_path / "config.json").stat().st_mode, (
        "others may read the one and not the other"
    )
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["episode"] for line in lines] == [4, 6], "the last step takes what is left"
