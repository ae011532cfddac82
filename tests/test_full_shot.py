"""Full-shot classification by the command line: trained, saved, tested, refused."""

import json
import shutil
import signal

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from small import options

import d2st
from d2st.commands import cli
from d2st.commands.evaluate_classifier import FullShotEvalConfig, evaluate_full_shot
from d2st.commands.train import TrainConfig, train
from d2st.commands.train_classifier import FullShotTrainConfig, train_full_shot
from d2st.errors import D2STError
from d2st.training.classification import ClassificationLoss
from d2st.training.trainer import Trainer

SHARES = {"train": "60%", "val": "40%"}


def config(folder, out, **more) -> FullShotTrainConfig:
    split = out.parent / "shares.yaml"
    split.parent.mkdir(parents=True, exist_ok=True)
    split.write_text(yaml.safe_dump(SHARES))
    settings = {"epochs": 2, "clips_per_step": 9, "batch_size": 3, "lr": 3e-3, "warmup_epochs": 1}
    settings |= {"split": str(split), "out": str(out)}
    return FullShotTrainConfig(**options(folder) | settings | more)


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A run of the command line, long enough to learn the colors."""
    out = tmp_path_factory.mktemp("full-shot") / "run"
    settings = config(small, out, epochs=12, batch_size=9, lr=1e-2, validate_every=6)
    flags = {"epochs", "clips_per_step", "batch_size", "lr", "warmup_epochs", "validate_every", "split", "data"}
    flags |= {"backbone", "weights", "image_size", "frames", "device", "out"}
    typed = [text for name in sorted(flags) for text in ("--" + name.replace("_", "-"), str(getattr(settings, name)))]
    assert cli.main(["train", "--head", "linear", *typed]) == 0
    return out


def evaluation(small, run, **more) -> FullShotEvalConfig:
    common = {"data": str(small / "data"), "split": str(run.parent / "shares.yaml"), "device": "cpu"}
    common |= {"adapter_path": str(run / "best"), "weights": str(small / "weights.safetensors")}
    return FullShotEvalConfig(**common | more)


def test_train_and_eval_from_the_command_line(small, run, tmp_path, capsys):
    result = json.loads((run / "train.json").read_text())
    assert (result["clips"], result["classes"], result["steps"]) == (27, 9, 36)
    assert result["config"]["head"] == "linear" and result["epochs"] == 12
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert [line["epoch"] for line in lines if "validation_accuracy" in line] == [6, 12]

    flags = ["--data", str(small / "data"), "--split", str(run.parent / "shares.yaml"), "--device", "cpu"]
    flags += ["--adapter", str(run / "best"), "--weights", str(small / "weights.safetensors")]
    assert cli.main(["eval", *flags, "--views", "2", "--crops", "3", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "eval.json").read_text())
    first, five = found["results"]
    assert found["part"] == "val" and found["clips"] == 18
    assert 2 / 9 < first["accuracy"] <= five["accuracy"] <= 1 and first["interval"] > 0
    assert sum(own["clips"] for own in found["per_class"].values()) == 18
    assert sum(pair["clips"] for pair in found["confused"]) == round(18 * (1 - first["accuracy"]))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    right = sum(max(answer["top"], key=answer["top"].get) == answer["class"] for answer in answers)
    assert right == round(18 * first["accuracy"])
    # The same adapter matches few-shot episodes where a matching head is named.
    few = ["--data", str(small / "data"), "--split", str(small / "split.yaml"), *flags[4:]]
    assert cli.main(["eval", *few, "--head", "bi-mhm", "--way", "3", "--shot", "1", "--episodes", "5"]) == 0
    assert "3-way 1-shot" in capsys.readouterr().out


def test_predict_from_the_command_line(small, run, tmp_path, capsys, monkeypatch):
    """By a classifier what eval says of the same clips; with examples to match with, few-shot as ever."""
    clips = sorted((small / "data").rglob("*.mp4"))[:4]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    model = ["--adapter", str(run / "best"), "--weights", str(small / "weights.safetensors"), "--device", "cpu"]
    query = ["--query", *map(str, clips), str(broken)]
    assert cli.main(["predict", *model, *query, "--out", str(tmp_path), "--format", "jsonl"]) == 1
    printed, told = capsys.readouterr()
    lines = [json.loads(line) for line in printed.splitlines()]
    found = json.loads((tmp_path / "predict.json").read_text())
    assert found["predictions"] == lines and [clip["id"] for clip in found["unreadable"]] == [str(broken)]
    assert "Passed over" in told
    assert [line["clip"] for line in lines] == [str(clip) for clip in clips]
    classifier = d2st.VideoClassifier.from_pretrained(run / "best", weights=small / "weights.safetensors")
    whole = evaluate_full_shot(evaluation(small, run, data=str(small / "data"), split=None, out=str(tmp_path)))
    assert whole["clips"] == len(list((small / "data").rglob("*.mp4")))
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    capsys.readouterr()
    for line in lines:
        top = next(answer["top"] for answer in answers if line["clip"].endswith(answer["id"]))
        assert line["scores"] == pytest.approx(top, abs=1e-5) and line["label"] in classifier.names
        assert line["confidence"] == max(line["scores"].values())

    monkeypatch.setenv("COLUMNS", "400")
    named = shutil.copy(clips[0], tmp_path / "serve [bold].mp4")
    assert cli.main(["predict", *model, "--query", str(named)]) == 0
    assert "serve [bold].mp4" in capsys.readouterr().out
    assert cli.main(["predict", *model, "--query", str(clips[0]), "--format", "csv"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "clip,label,confidence" and row.startswith(f"{clips[0]},{lines[0]['label']},")
    assert cli.main(["predict", *model, "--query", str(clips[0]), "--support", str(small / "data")]) == 0
    assert "answer" in capsys.readouterr().out
    assert cli.main(["predict", "--head", "linear", "--query", str(clips[0])]) == 2
    assert "--adapter FOLDER" in capsys.readouterr().err


def test_wrong_flags_are_told_with_the_help_that_lists_the_right_ones(small, run, capsys):
    flags = ["--data", str(small / "data"), "--adapter", str(run / "best")]
    for typed, said in (
        (["eval", *flags, "--shot", "1"], "d2st eval-classifier --help"),
        (["train", "--head", "linear", *flags, "--way", "5"], "d2st train-classifier --help"),
        (["train", *flags, "--head", "line"], "linear makes a classifier: d2st train-classifier"),
        (["eval", *flags[:2], "--head", "linear"], "Say which classifier: --adapter FOLDER"),
        (["predict", "--support", "x", "--query", "x", "--head", "linear"], "d2st predict-classifier --help"),
    ):
        assert cli.main(typed) == 2
        assert said in capsys.readouterr().err


def test_data_without_parts_are_tested_as_a_whole(small, run):
    found = evaluate_full_shot(evaluation(small, run, split=None))
    assert found["part"] == "all" and found["clips"] == 45


def test_validation_and_eval_agree(small, run):
    trained = json.loads((run / "train.json").read_text())
    again = evaluate_full_shot(evaluation(small, run))
    assert again["results"][0]["accuracy"] == pytest.approx(trained["best_accuracy"])


def test_views_are_averaged(small, run):
    """Several views by the command equal their mean by hand."""
    from d2st.data import sampling as frames
    from d2st.data.clip_reading import ClipReading
    from d2st.data.datasets import open_division
    from d2st.data.options import ViewOptions
    from d2st.data.transforms import CropsTransform
    from d2st.evaluation.classification import classify
    from d2st.utils.distributed import launch

    model = d2st.VideoClassifier.from_pretrained(run / "best", weights=small / "weights.safetensors")
    clips = open_division(small / "data", run.parent / "shares.yaml", "val", model.names)
    encoder = model.encoder
    encoder.image_size = (32, 24)  # so that crops differ
    transform = CropsTransform((32, 24), encoder.mean, encoder.std, encoder.interpolation, 2)
    fabric = launch(torch.device("cpu"))
    reading = ClipReading(4, "tsn")
    for average in ("probabilities", "logits"):
        found = classify(fabric, model, clips, reading, ViewOptions(views=3, crops=2, average=average), batch_size=4)
        logits = []
        for view in range(3):
            rule = frames.build("tsn", 4, view=view, views=3)
            with torch.no_grad():
                logits += list(model(transform(clips.read(5, rule))))
        logits = torch.stack(logits)
        mean = logits.mean(0).softmax(0) if average == "logits" else logits.softmax(1).mean(0)
        assert found.top[5].tolist() == mean.topk(5).indices.tolist()
        torch.testing.assert_close(torch.from_numpy(found.scores[5]), mean.topk(5).values)


def test_a_run_that_is_stopped_ends_with_the_same_weights(small, tmp_path, monkeypatch, capsys):
    more = {"rand_augment": 2, "erasing": 0.5, "mixup": 0.8, "cutmix": 1.0, "label_smoothing": 0.1, "crop": "area"}
    more |= {"validate_every": 0, "adapter": d2st.STConfig(), "sampling": "stride", "stride": (1, 2)}
    train_full_shot(config(small, tmp_path / "whole", **more))
    forward = Trainer.forward

    def interrupted(self, unit):
        if unit.index == 6:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, unit)

    monkeypatch.setattr(Trainer, "forward", interrupted)
    with pytest.raises(SystemExit):
        train_full_shot(config(small, tmp_path / "cut", **more))
    assert "Stopped at batch 9" in capsys.readouterr().out
    monkeypatch.undo()
    train_full_shot(config(small, tmp_path / "cut", **more, workers=1))
    for kind in ("adapter", "classifier"):
        one, two = (load_file(tmp_path / n / "final" / f"{kind}_model.safetensors") for n in ("whole", "cut"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_step_is_the_mean_over_its_clips(small, tmp_path, monkeypatch):
    """Three batches of three give the gradient of one batch of nine."""
    grads = []
    monkeypatch.setattr(
        torch.optim.AdamW,
        "step",
        lambda self, *_: grads.append([p.grad.clone() for g in self.param_groups for p in g["params"]]),
    )
    monkeypatch.setattr("d2st.adapters.classifiers.nn.Dropout.forward", lambda self, x: x)
    for size in (3, 9):
        train_full_shot(config(small, tmp_path / str(size), batch_size=size, epochs=1, warmup_epochs=0))
    for one, two in zip(grads[0], grads[3], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


def test_mixed_labels_are_mixed_as_the_clips_are():
    class Sum(torch.nn.Module):
        def forward(self, video):
            return video.flatten(1).mean(1, keepdim=True) * torch.tensor([[0.0, 1.0]])

    video = torch.stack([torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)])
    for kind in ({"mixup": 1.0}, {"cutmix": 1.0}):
        seen = []
        model = Sum()
        model.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        torch.manual_seed(3)
        loss, _ = ClassificationLoss(model, 2, **kind)(video, torch.tensor([0, 1]))
        share = float(seen[0][0].mean())  # of the second clip in the first
        assert 0 < share < 1 and type(seen[0]) is torch.Tensor
        logits = Sum()(seen[0])
        target = torch.tensor([[1 - share, share], [share, 1 - share]])
        torch.testing.assert_close(loss, -(target * logits.log_softmax(1)).sum(1).mean(), rtol=1e-4, atol=1e-5)


def test_a_clip_that_cannot_be_read_is_replaced_and_told(small, tmp_path):
    data = shutil.copytree(small / "data", tmp_path / "data")
    (data / "red" / "1.mp4").write_bytes(b"gone")
    (tmp_path / "all.yaml").write_text("train: 100%\n")
    settings = {"data": str(data), "split": str(tmp_path / "all.yaml"), "epochs": 1, "warmup_epochs": 0}
    result = train_full_shot(config(small, tmp_path / "run", **settings))
    assert [clip["id"] for clip in result["bad_clips"]] == ["red/1.mp4"]
    found = evaluate_full_shot(
        evaluation(small, tmp_path / "run", data=str(data), split=str(tmp_path / "all.yaml"), part="train")
    )
    assert found["clips"] == 44 and [clip["id"] for clip in found["bad_clips"]] == ["red/1.mp4"]


def test_the_saved_classifier_is_the_trained_one(small, run, tmp_path):
    weights = small / "weights.safetensors"
    model = d2st.VideoClassifier.from_pretrained(run / "best", weights=weights)
    assert model.names[0] == "blue" and not model.training
    model.save_pretrained(tmp_path)
    again = d2st.VideoClassifier.from_pretrained(tmp_path, weights=weights)
    video = torch.randn(2, 4, 3, 32, 32)
    assert torch.equal(model(video), again(video))
    (tmp_path / "classifier_model.safetensors").unlink()
    with pytest.raises(D2STError, match=r"classifier_model\.safetensors"):
        d2st.VideoClassifier.from_pretrained(tmp_path, weights=weights)
    with pytest.raises(D2STError, match="without names"):
        d2st.VideoClassifier(model.encoder, 9).save_pretrained(tmp_path)
    with pytest.raises(D2STError, match="of a single class"):
        d2st.VideoClassifier(model.encoder, 1, ["a"]).save_pretrained(tmp_path / "one")


@pytest.mark.parametrize("name", ["dist", "dualpath", "aim"])
def test_other_systems_train_with_their_own_classifiers(small, tmp_path, monkeypatch, name):
    """DiST compares with the names' features, which are saved with it."""
    monkeypatch.setattr("d2st.commands.train_classifier.encode_names", lambda names, *_: torch.eye(len(names), 64))
    adapter = {
        "dist": d2st.DiSTConfig(width=32, temporal_width=8, pool_layers=1, feature="video", out_features=64, stride=1),
        "dualpath": d2st.DualPathConfig(tiles=2, spatial_frames=4),
        "aim": d2st.AIMConfig(),
    }[name]
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    encoder = d2st.adapt(backbone, adapter, frames=4)
    settings = {"epochs": 1, "warmup_epochs": 0, "validate_every": 0, "batch_size": 9}
    train_full_shot(config(small, tmp_path / "run", **settings), encoder)
    fresh = timm.create_model("test_vit", num_classes=0, img_size=32)
    fresh.load_state_dict(backbone.state_dict())
    again = d2st.VideoClassifier.from_pretrained(tmp_path / "run" / "final", backbone=fresh)
    video = torch.randn(2, 4, 3, 32, 32)
    classifier = {"dist": "TextClassifier", "dualpath": "TwoLayers", "aim": "MeanThenLinear"}[name]
    assert again(video).shape == (2, 9) and type(again.head).__name__ == classifier
    state = {
        key.removeprefix("adapter/"): value for key, value in load_file(tmp_path / "run" / "last.safetensors").items()
    }
    trained = encoder.adapter_state_dict()
    assert all(torch.equal(state[key], value) for key, value in trained.items())
    torch.testing.assert_close(again.encoder(video), encoder.eval()(video))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"batch_size": 4}, "batch_size 4 does not divide clips_per_step 9"),
        ({"warmup_epochs": 2}, "2 epochs of warm-up do not fit into 2"),
        ({"clips_per_step": 40, "batch_size": 40}, "The only step of this run, of 40 clips, .* trains nothing"),
        ({"sampling": "dense"}, "sampling='dense' must be 'uniform', 'tsn'"),
        ({"stride": 0}, "stride=0 must be a whole number from 1"),
        ({"area": (0.5, 0.2)}, "area is 0.5 to 0.2"),
        ({"magnitude": 11}, "magnitude=11 must be a number from 0 to 10"),
        ({"mixup": -1}, "mixup=-1 must be a number of at least 0"),
        ({"cutmix": 1.0, "batch_size": 1}, "blend clips of a batch with each other; give a batch_size of 2"),
        ({"split": "few"}, "has classes of its own, which is for few-shot learning"),
        ({"adapter": d2st.DiSTConfig()}, "class token"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(small, tmp_path, more, said):
    if more.get("split"):
        more = {"split": str(small / "split.yaml")}
    with pytest.raises(D2STError, match=said):
        train_full_shot(config(small, tmp_path / "run", **more))
    assert not (tmp_path / "run").exists()


def test_a_step_of_more_clips_than_there_are_is_told(small, tmp_path, capsys):
    settings = {"shots": 1, "epochs": 3, "validate_every": 0}  # 9 clips
    result = train_full_shot(config(small, tmp_path / "one", **settings, clips_per_step=27, batch_size=9))
    assert result["steps"] == 1
    assert "A step takes 27 clips and there are 9 for training, which makes 1 step in all" in capsys.readouterr().out
    train_full_shot(config(small, tmp_path / "more", **settings))
    assert "A step takes" not in capsys.readouterr().out


def test_few_shot_training_does_not_validate_on_its_own_classes(small, tmp_path):
    split = tmp_path / "shares.yaml"
    split.write_text(yaml.safe_dump(SHARES))
    with pytest.raises(D2STError, match=r"divides the clips of each class, which is for classification"):
        train(TrainConfig(**options(small) | {"split": str(split), "out": str(tmp_path / "run")}))
