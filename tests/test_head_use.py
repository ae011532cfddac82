"""Heads with parameters from end to end: trained, saved, found again, compared."""

import json
import signal

import pytest
import small
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import d2st
from d2st import heads
from d2st.commands import cli, evaluate
from d2st.commands.evaluate import EvalConfig
from d2st.commands.parser import parse
from d2st.commands.predict import PredictConfig, predict
from d2st.commands.train import TrainConfig, train
from d2st.data.episodes import EpisodeSampler
from d2st.errors import D2STError
from d2st.heads import HeadSpec, bi_mhm, class_prototypes, frame_distances
from d2st.training.episodic import EpisodicLoss
from d2st.training.trainer import Trainer


class Projected(heads.Head):
    """Bi-MHM on projected features, with drop-out.

    Args:
        features: D.
        classes: of the training part.
        width: of the projection.
        drop: drop-out.
        scales: factors of the logits, multiplied.
    """

    def __init__(
        self, features: int, classes: int = 0, width: int = 4, drop: float = 0.2, scales: tuple[float, ...] = (1.0,)
    ):
        super().__init__()
        self.linear, self.drop = nn.Linear(features, width), nn.Dropout(drop)
        self.scale, self.classes = torch.tensor(scales).prod().item(), classes

    def embed(self, clips):
        return self.drop(self.linear(clips))

    def match(self, support, labels, query, way=None, text=None):
        return -self.scale * bi_mhm(frame_distances(class_prototypes(support, labels, way), query))


class Pooled(Projected):
    """The same on maps."""

    takes = "maps"

    def embed(self, clips):  # (..., T, D, H, W)
        assert clips.ndim >= 5
        return super().embed(clips.amax((-2, -1)))


@pytest.fixture(autouse=True)
def test_heads(monkeypatch):
    monkeypatch.setitem(heads.HEADS, "projected", Projected)
    monkeypatch.setitem(heads.HEADS, "pooled", Pooled)


def config(folder, out, **more) -> TrainConfig:
    settings = {"way": 3, "episodes": 12, "episodes_per_step": 4, "validation_episodes": 20, "head": "projected"}
    return TrainConfig(**small.options(folder, out=str(out), **settings | more))


def evaluation(folder, adapter, **more) -> dict:
    options = small.options(folder, way=3, shot=(1, 3), queries=2, episodes=40, adapter_path=str(adapter))
    return evaluate.evaluate(EvalConfig(**options | more))


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "head_model.safetensors") | load_file(folder / "adapter_model.safetensors")


def same(one, two) -> bool:
    one, two = weights(one), weights(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["projected", "pooled"])
def test_by_the_command_line_from_training_to_an_answer(small, tmp_path, capsys, name) -> None:
    model = ["--backbone", "test_resnet", "--weights", str(small / "weights.safetensors"), "--image-size", "32"]
    data = ["--data", str(small / "data"), "--split", str(small / "split.yaml"), "--device", "cpu"]
    run = ["--way", "3", "--episodes", "8", "--episodes-per-step", "4", "--validation-episodes", "9", "--frames", "4"]
    chosen = ["--head", name, "--head.width", "5", "--head.scales", "2,0.5"]
    assert cli.main(["train", *data, *model, *run, *chosen, "--out", str(tmp_path)]) == 0
    head = {"name": name, "width": 5, "drop": 0.2, "scales": [2, 0.5]}
    assert json.loads((tmp_path / "config.json").read_text())["head"] == head
    saved = json.loads((tmp_path / "best" / "head_config.json").read_text())["head"]
    assert saved == head | {"features": d2st.load(tmp_path / "best", weights=model[3]).num_features, "classes": 4}

    out, best = ["--out", str(tmp_path / "eval")], ["--adapter", str(tmp_path / "best"), "--weights", model[3]]
    for _ in range(2):  # the second time from the cache
        assert cli.main(["eval", *data, *best, *out, "--way", "3", "--shot", "1", "--episodes", "9"]) == 0
        written = json.loads((tmp_path / "eval" / "eval.json").read_text())
        assert written["config"]["head"] == head and written["results"][0]["head"] == name
    capsys.readouterr()
    query = str(small / "data" / "red")
    support = ["--support", str(small / "data"), "--query", query, "--format", "jsonl", "--device", "cpu"]
    assert cli.main(["predict", *best, *support, "--save", str(tmp_path / "saved")]) == 0
    first = capsys.readouterr()
    assert len(first.out.splitlines()) == 5 and "untrained" not in first.err
    again = ["--classifier", str(tmp_path / "saved"), "--weights", model[3], "--query", query, "--format", "jsonl"]
    assert cli.main(["predict", *again, "--device", "cpu"]) == 0
    for one, two in zip(first.out.splitlines(), capsys.readouterr().out.splitlines(), strict=True):
        one, two = json.loads(one), json.loads(two)  # embedded in other batches: the last digits may differ
        assert one["answer"] == two["answer"] and one["confidence"] == pytest.approx(two["confidence"], abs=1e-4)
        assert one["logits"] == pytest.approx(two["logits"], abs=1e-5)
    assert cli.main(["predict", *again, "--head", "otam"]) == 2
    assert "leave out --head." in capsys.readouterr().err


@pytest.mark.parametrize("head", ["projected", "pooled"])
def test_head_alone(small, tmp_path, head) -> None:
    result = train(config(small, tmp_path, adapter=d2st.NoneConfig(), head=head, validate_every=0))
    assert result["trainable_parameters"] == 0 and result["head_parameters"] > 0
    torch.manual_seed(0)
    fresh = heads.build(head, features=result["head_parameters"] // 4 - 1, classes=4).state_dict()
    trained = load_file(tmp_path / "best" / "head_model.safetensors")
    assert trained.keys() == fresh.keys() and not any(torch.equal(trained[n], fresh[n]) for n in fresh)


def test_interrupted_and_resumed_it_is_the_same(small, tmp_path, monkeypatch) -> None:
    """Head, adapter and optimizer, with drop-out in the head and the colors of the clips at random."""
    more = {"jitter": 0.3, "class_loss": 0.5, "validate_every": 4}
    train(config(small, tmp_path / "whole", **more))
    forward = Trainer.forward

    def interrupted(self, unit):
        if unit.index == 4:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, unit)

    monkeypatch.setattr(Trainer, "forward", interrupted)
    with pytest.raises(SystemExit):
        train(config(small, tmp_path / "cut", **more))
    monkeypatch.undo()
    heads.HEADS["projected"] = Projected
    try:
        train(config(small, tmp_path / "cut", **more))
    finally:
        del heads.HEADS["projected"]
    for part in ("best", "final"):
        assert same(tmp_path / "whole" / part, tmp_path / "cut" / part)
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "cut"))
    assert any(key.startswith("optimizer/exp_avg/head.") for key in one)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert (tmp_path / "whole" / "metrics.jsonl").read_text() == (tmp_path / "cut" / "metrics.jsonl").read_text()


def test_a_folder_belongs_to_one_head(small, tmp_path) -> None:
    train(config(small, tmp_path, validate_every=0))
    train(config(small, tmp_path, validate_every=0, head=HeadSpec("projected", {"width": 4})))  # its default
    with pytest.raises(D2STError, match=r"configuration: head.width is 4 there and 3 here\."):
        train(config(small, tmp_path, validate_every=0, head=HeadSpec("projected", {"width": 3})))
    train(config(small, tmp_path, validate_every=0, head="otam", overwrite=True))
    assert not (tmp_path / "final" / "head_model.safetensors").exists()
    assert heads.load(tmp_path / "final").spec.name == "otam"


def test_training_goes_on_from_a_saved_head(small, tmp_path) -> None:
    train(config(small, tmp_path / "a", head=HeadSpec("projected", {"width": 3})))
    start = {"adapter_path": str(tmp_path / "a" / "final"), "lr": 0.0}
    train(config(small, tmp_path / "b", **start, head=None))
    assert same(tmp_path / "a" / "final", tmp_path / "b" / "final")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["head"]["width"] == 3


def test_the_head_has_a_learning_rate_of_its_own(small, tmp_path) -> None:
    train(config(small, tmp_path / "a"))
    start = {"adapter_path": str(tmp_path / "a" / "final"), "validate_every": 0}
    train(config(small, tmp_path / "b", **start, head_lr=0.0))
    for file, moved in (("head", False), ("adapter", True)):
        before, after = (load_file(tmp_path / run / "final" / f"{file}_model.safetensors") for run in "ab")
        assert all(torch.equal(before[name], after[name]) for name in before) is not moved


def test_training_goes_on_with_other_classes(small, tmp_path) -> None:
    train(config(small, tmp_path / "a", head="hyrsm", split=None, episodes=4, validate_every=0))
    start = {"adapter_path": str(tmp_path / "a" / "final"), "validate_every": 0, "episodes": 4, "lr": 0.0}
    train(config(small, tmp_path / "b", **start, head=None))
    before, after = (load_file(tmp_path / run / "final" / "head_model.safetensors") for run in "ab")
    assert before["classifier.weight"].shape[0] == 9 and after["classifier.weight"].shape[0] == 4
    assert all(torch.equal(before[name], after[name]) for name in before if "classifier" not in name)
    assert heads.load(tmp_path / "b" / "final").spec.options["classes"] == 4


def test_a_saved_head_is_the_same_head(tmp_path) -> None:
    head = heads.build("projected", features=6, classes=3, scales=(2.0, 0.25)).eval()
    heads.save(head, tmp_path)
    again, clips = heads.load(tmp_path), torch.randn(4, 5, 6)
    labels = torch.tensor([0, 1])
    assert torch.equal(again(clips[:2], labels, clips[2:]), head(clips[:2], labels, clips[2:]))
    assert again.spec == head.spec and not again.training
    other = heads.load(tmp_path, scales=(1.0,))  # leaves the weights as they are
    assert torch.allclose(2 * head(clips[:2], labels, clips[2:]), other(clips[:2], labels, clips[2:]))
    with pytest.raises(D2STError, match="do not fit its options"):
        heads.load(tmp_path, width=7)
    (tmp_path / "head_model.safetensors").write_bytes(b"torn")
    with pytest.raises(D2STError, match="cannot be read"):
        heads.load(tmp_path)
    (tmp_path / "head_config.json").write_text("{}")
    with pytest.raises(D2STError, match=r"head_config.json. says format null"):
        heads.load(tmp_path)
    (tmp_path / "head_config.json").unlink()
    with pytest.raises(D2STError, match="holds no head"):
        heads.load(tmp_path)
    with pytest.raises(D2STError, match=r"without d2st\.heads\.build"):
        heads.save(Projected(6, 3), tmp_path)
    with pytest.raises(D2STError, match="cannot be built without features"):
        heads.build("projected")


@pytest.mark.parametrize("name", ["projected", "pooled"])
def test_several_heads_on_one_encoding(small, tmp_path, capsys, monkeypatch, name) -> None:
    train(config(small, tmp_path / "run", head=name, validate_every=0))
    best, calls, encode = tmp_path / "run" / "best", [], evaluate.encode_clips
    monkeypatch.setattr(evaluate, "encode_clips", lambda *a, **k: calls.append(1) or encode(*a, **k))
    capsys.readouterr()
    result = evaluation(small, best, heads="all", out=str(tmp_path / "all"))
    assert len(calls) == 1
    other = {"projected": "pooled", "pooled": "projected"}[name]
    assert result["left_out"][other] == "not trained"
    printed = capsys.readouterr().out
    assert "less bi-mhm" in printed and other in printed and "3-way 3-shot" in printed and "untrained" not in printed
    assert {"bi-mhm", "otam", name} <= {head["name"] for head in result["heads"]}
    written = json.loads((tmp_path / "all" / "eval.json").read_text())
    assert written["results"] == result["results"]
    alone = {head: evaluation(small, best, head=head) for head in ("bi-mhm", "otam", None)}
    for head, found in alone.items():  # the same episodes, so the same numbers
        rows = [r for r in result["results"] if r["head"] == (head or name)]
        assert [r["accuracy"] for r in rows] == [r["accuracy"] for r in found["results"]]
        for row, base in zip(rows, alone["bi-mhm"]["results"], strict=True):
            if head != "bi-mhm":
                assert row["difference"]["mean"] == pytest.approx(row["accuracy"] - base["accuracy"])
                assert row["difference"]["to"] == "bi-mhm" and row["difference"]["interval"] >= 0
    listed = evaluation(small, best, heads=("otam", name))
    assert [r["head"] for r in listed["results"]] == ["otam"] * 2 + [name] * 2
    assert all(r["difference"]["to"] == "otam" for r in listed["results"][2:])
    with pytest.raises(D2STError, match=f"None of the heads {other} has been trained"):
        evaluation(small, best, heads=other)
    with pytest.raises(D2STError, match="no head named 'nearest'"):
        evaluation(small, best, heads="otam,nearest")
    with pytest.raises(D2STError, match=r"The head 'ridge' is not one of those that are compared .otam, bi-mhm."):
        evaluation(small, best, heads="otam,bi-mhm", head=heads.HeadSpec("ridge", {"order": True}))


def test_batches_of_episodes_follow_what_the_head_needs(monkeypatch) -> None:
    from d2st.evaluation import episodes as scoring

    seen = []

    class Hungry(heads.BiMHM):
        def episode_bytes(self, clip, support, queries, way):
            assert (clip.shape, support, queries, way) == ((4, 8), 6, 3, 3)
            return scoring.BUDGET // 5

        def match(self, support, *rest):
            seen.append(len(support))
            return super().match(support, *rest)

    clips, labels = torch.randn(20, 1, 4, 8), torch.arange(4).repeat_interleave(5).numpy()
    scores = scoring.score(clips, EpisodeSampler(labels, 3, 2, 1), Hungry(), 12)
    assert seen == [5, 5, 2]
    plain = scoring.score(clips, EpisodeSampler(labels, 3, 2, 1), heads.build("bi-mhm"), 12)
    assert (scores.accuracies == plain.accuracies).all()


def test_untrained_is_said(small, capsys) -> None:
    options = small_options = {"adapter_path": None, "shot": 1, "episodes": 5}
    result = evaluation(small, None, **options, head="projected")
    assert "The head 'projected' is untrained" in capsys.readouterr().err
    assert evaluation(small, None, **small_options, head="projected")["results"] == result["results"]


def test_a_head_gets_text_and_video(small, tmp_path) -> None:
    seen = []

    class Nosy(heads.BiMHM):
        needs_video = True

        def loss(self, episode):
            seen.append(episode)
            return super().loss(episode)

    encoder = d2st.adapt("test_resnet", d2st.NoneConfig(), frames=2, pretrained=False, image_size=32)
    text, video = torch.randn(7, 3), torch.randn(3 * 3, 2, 3, 32, 32)
    EpisodicLoss(encoder, Nosy(), 3, 1, 2, symmetric=True, text=text)(video, torch.tensor([6, 0, 2]))
    (episode,) = seen
    assert episode.text is not None and torch.equal(episode.text, text)
    assert episode.support_video.shape == (3, 3, 2, 3, 32, 32) and episode.query_video.shape == (3, 6, 2, 3, 32, 32)
    assert torch.equal(episode.support_video[0], video[:3]) and torch.equal(episode.query_video[0], video[3:])


def test_the_classifier_finds_the_head_of_a_run(small, tmp_path) -> None:
    train(config(small, tmp_path, validate_every=0))
    file = small / "weights.safetensors"
    found = d2st.FewShotClassifier.from_pretrained(tmp_path / "best", weights=file)
    assert found.classes == () and found.head.spec.name == "projected"
    encoder = d2st.load(tmp_path / "best", weights=file)
    given = d2st.FewShotClassifier(encoder, heads.load(tmp_path / "best"))
    clips = {name: [small / "data" / name / f"{n}.mp4" for n in (0, 1)] for name in ("pink", "sand")}
    query = small / "data" / "sand" / "4.mp4"
    answer = found.fit(clips).predict(query)
    assert answer == given.fit(clips).predict(query)
    assert len(answer.matches) == 4
    options = {
        key: value for key, value in small_model(small).items() if key not in ("backbone", "image_size", "frames")
    }
    support = {"support": str(small / "data"), "query": str(query), "adapter_path": str(tmp_path / "best")}
    other = predict(PredictConfig(**options, **support, head="otam"))
    assert other != predict(PredictConfig(**options, **support))


def small_model(folder) -> dict:
    return {key: value for key, value in small.options(folder).items() if key not in ("data", "split")}


def read(*arguments) -> HeadSpec | None:
    return parse("eval", ["--data", "x", *arguments]).head


def test_heads_on_the_command_line(tmp_path) -> None:
    assert read() is None
    assert read("--head", "otam") == HeadSpec("otam")
    assert read("--head", "otam", "--head.smoothing", "0.1") == HeadSpec("otam", {"smoothing": 0.1})
    assert read("--head.cosine", "eps") == HeadSpec("bi-mhm", {"cosine": "eps"})
    assert read("--head", "projected", "--head.scales", "2,3") == HeadSpec("projected", {"scales": (2.0, 3.0)})
    file = tmp_path / "x.yaml"
    for head in ("otam", {"name": "otam"}):
        file.write_text(yaml.safe_dump({"head": head}))
        assert read("--config", str(file)) == HeadSpec("otam")
        assert read("--config", str(file), "--head", "bi-mhm") == HeadSpec("bi-mhm")
    file.write_text(yaml.safe_dump({"head": {"name": "otam", "smoothing": 0.2}}))
    assert read("--config", str(file), "--head.cosine", "eps") == HeadSpec("otam", {"smoothing": 0.2, "cosine": "eps"})
    assert parse("eval", ["--data", "x", "--heads", "otam", "bi-mhm"]).heads == (
        "otam",
        "bi-mhm",
    )
    assert parse("eval", ["--data", "x", "--heads", "all"]).heads == "all"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--head", "nearest"], "no head named 'nearest'"),
        (["--head", "bi-mhm", "--head.smoothing", "1"], "head.smoothing"),
        (["--head", "otam", "--head.smoothing", "much"], "smoothing='much' must be a number above 0"),
        (["--head", "projected", "--head.features", "3"], "head.features"),
    ],
)
def test_a_wrong_head_is_a_sentence(arguments, said, capsys) -> None:
    assert cli.main(["eval", "--data", "x", *arguments]) == 2
    printed = capsys.readouterr()
    assert said in printed.err and "Traceback" not in printed.err


def test_options_of_the_saved_head_are_those_that_are_shown(tmp_path, capsys) -> None:
    heads.save(heads.build("projected", features=3, classes=2, width=9), tmp_path)
    arguments = ["--adapter", str(tmp_path)]
    assert read(*arguments) is None
    assert read(*arguments, "--head.drop", "0.5") == HeadSpec("projected", {"drop": 0.5})
    with pytest.raises(SystemExit):
        read(*arguments, "--print-config")
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["head"] is None, "another adapter given with this file would lose its head"
    (line,) = [line for line in shown.splitlines() if line.startswith("head:")]
    options = yaml.safe_load(line.split("adapter: ")[1])
    assert options == {"name": "projected", "width": 9, "drop": 0.2, "scales": [1.0]}


def test_options_of_a_head_from_elsewhere_are_checked_by_their_annotations() -> None:
    for name, value in (("width", "x"), ("width", 2.5)):
        with pytest.raises(D2STError, match=f"The head 'projected': {name}="):
            HeadSpec("projected", {name: value})
    with pytest.raises(D2STError, match="The head 'projected': width="):
        heads.build("projected", features=4, classes=4, width="x")
