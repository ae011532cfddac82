"""``d2st eval --open-set``, and "unknown" as an answer, on rendered clips."""

import csv
import json
import shutil

import numpy as np
import pytest
import small
import torch

import d2st
from d2st import heads
from d2st.classifiers.open_set import Calibration
from d2st.commands import cli
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.data.episodes import EpisodeSampler
from d2st.errors import D2STError
from d2st.evaluation.episodes import score
from d2st.evaluation.open_set import OpenScores, rates, reliability, score_open, summarize_open


def test_unseen_classes_are_drawn_after_and_beside() -> None:
    labels = np.repeat(np.arange(9), 8)
    for unseen in (1, 4):
        plain, open_set = (EpisodeSampler(labels, 4, 2, 3, seed=5, unseen=u) for u in (0, unseen))
        counts = np.zeros(9)
        for i in range(300):
            one, two = plain.draw(i), open_set.draw(i)
            assert all(np.array_equal(getattr(one, k), getattr(two, k)) for k in ("support", "query", "classes"))
            assert len(one.unseen) == 0 and len(set(two.unseen)) == unseen * 3
            others = set(labels[two.unseen])
            assert len(others) == unseen and not others & set(two.classes)
            counts[list(others)] += 1
        assert np.allclose(counts / 300, unseen / 9, atol=0.09)
    with pytest.raises(D2STError, match="8-way episode needs 8 classes and 2 more that are not in it"):
        EpisodeSampler(labels, 8, 1, unseen=2)
    assert EpisodeSampler(labels, 1, 1, unseen=1).draw(0).unseen.shape == (1,)


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, np.ndarray]:
    """Clips (N, V, T, D) of ten classes that a head tells apart sometimes."""
    rng = torch.Generator().manual_seed(0)
    labels = np.repeat(np.arange(10), 9)
    centers = torch.randn(10, 1, 4, 8, generator=rng)
    return centers[torch.from_numpy(labels)] + 1.2 * torch.randn(len(labels), 2, 4, 8, generator=rng), labels


@pytest.mark.parametrize("shot", [1, 3])
def test_open_scores_are_those_of_one_episode_after_another(features, shot: int) -> None:
    from d2st.classifiers.rejector import fit_rejector

    clips, labels = features
    sampler, head = EpisodeSampler(labels, 4, shot, 2, seed=1, unseen=3), heads.build("otam")
    found = score_open(clips[:, :1], sampler, head, 30, reject_rate=0.2)
    assert found.known.shape == (30, 8) and found.unknown.shape == (30, 6) and (found.support is None) == (shot == 1)
    support_labels = torch.from_numpy(sampler.support_labels)
    for i in range(30):
        e = sampler.draw(i)
        support = clips[e.support, 0]
        rejector = fit_rejector(head, support, support_labels, None, 0.2, None)
        logits = head.match(support, support_labels, clips[np.concatenate([e.query, e.unseen]), 0], 4)
        torch.testing.assert_close(torch.cat([found.known_logits[i], found.unknown_logits[i]]), logits.double())
        if shot > 1:
            _, unknown = rejector(logits)
            flags = [scores[i] < found.support.threshold[i] for scores in (found.known, found.unknown)]
            assert torch.equal(torch.cat(flags), unknown)
    closed = score(clips[:, :1], EpisodeSampler(labels, 4, shot, 2, seed=1), head, 30)
    assert found.right.double().mean(1).tolist() == pytest.approx(closed.accuracies.tolist())
    assert score(clips[:, :1], sampler, head, 30).accuracies.tolist() == closed.accuracies.tolist()


def test_what_becomes_of_the_queries() -> None:
    known = torch.tensor([[3.0, 2.0, 0.0, 5.0], [1.0, 4.0, 4.0, 4.0]]).double()
    unknown = torch.tensor([[2.5, -1.0], [0.0, 0.0]]).double()
    logits = torch.eye(2).double()[torch.tensor([[0, 0, 1, 0], [0, 0, 1, 1]])]
    scores = OpenScores(known, unknown, logits, torch.zeros(2, 2, 2).double(), torch.tensor([0, 0, 1, 1]), None)
    found = rates(scores, torch.tensor([2.0, 2.0]))
    assert [found[k]["mean"] for k in ("kept", "right", "rejected", "accuracy")] == [6 / 8, 5 / 8, 3 / 4, 11 / 16]
    result = summarize_open(scores, 0.25)
    assert result["auroc"]["mean"] == (6 / 8 + 8 / 8) / 2
    assert result["fixed"]["kept"]["mean"] == 0.75 and result["auroc"]["interval"] > 0
    assert set(result) == {"queries", "unseen_queries", "auroc", "reject_rate", "fixed"}


def test_reliability_knows_a_true_confidence_from_a_boast() -> None:
    rng = torch.Generator().manual_seed(0)
    scores, labels = 2 * torch.randn(4000, 10, generator=rng).double(), torch.zeros(5, dtype=torch.long)
    is_known = torch.rand(4000, 10, generator=rng) < torch.sigmoid(scores)
    known, unknown = scores[is_known][:19000].view(-1, 5), scores[~is_known][:19000].view(-1, 5)
    flat = torch.zeros(len(known), 5, 2).double()
    flat[..., 0] = 100  # always right, when known
    found = OpenScores(known, unknown, flat, flat, labels, None)
    one, two = torch.ones(()).double(), torch.zeros(()).double()
    true = reliability(found, Calibration(two, one, two, one))
    boast = reliability(found, Calibration(two, one, 3 * one, one))
    assert true["ece"] < 0.01 < 0.15 < boast["ece"] and true["brier"] < boast["brier"]
    assert sum(share for share, *_ in true["bins"]) == pytest.approx(1)


def config(folder, **more) -> EvalConfig:
    options = {"way": 2, "shot": (1, 3), "queries": 2, "episodes": 40, "open_set": True}
    return EvalConfig(**small.options(folder, **options | more))


def test_eval_open_set_on_clips(small, tmp_path, capsys) -> None:
    result = evaluate(config(small, out=str(tmp_path)))
    written = json.loads((tmp_path / "eval.json").read_text(), parse_constant=pytest.fail)
    assert written["results"] == result["results"]
    closed = evaluate(config(small, open_set=False))
    for r, plain in zip(result["results"], closed["results"], strict=True):
        found = r.pop("open_set")
        assert r == plain, "asking for more changes what was there"
        assert (found["queries"], found["unseen_queries"]) == (4, 2) and 0.5 < found["auroc"]["mean"] <= 1
        assert found["fixed"]["kept"]["mean"] == pytest.approx(0.95, abs=0.025)
        assert ("support" in found) == (r["shot"] > 1)
    assert 0 <= found["support"]["ece"] <= 1
    assert "open set: AUROC" in capsys.readouterr().out
    several = evaluate(config(small, heads="bi-mhm,otam", shot=1))
    assert [r["open_set"]["auroc"]["mean"] > 0 for r in several["results"]] == [True, True]
    one = evaluate(config(small, way=1, shot=3))["results"][0]
    assert one["accuracy"] == 1 and one["open_set"]["auroc"]["mean"] > 0.5


def test_open_set_options_are_refused_with_a_sentence(small) -> None:
    for more, said in (
        ({"way": 3}, "3-way episode needs 3 classes and 1 more"),
        ({"reject_rate": 0.0}, "reject_rate=0.0 must be a number above 0 and below 1"),
        ({"save_calibration": "x"}, "fitted on validation classes"),
        ({"open_set": False, "calibration": "x"}, "with --open-set"),
        ({"heads": "bi-mhm", "calibration": "x"}, "give --head instead of --heads"),
        ({"calibration": "gone.json"}, "There is no calibration 'gone.json'"),
    ):
        with pytest.raises(D2STError, match=said):
            evaluate(config(small, **more))


@pytest.fixture(scope="module")
def adapter(small, tmp_path_factory):
    """A folder with an untrained adapter, a support folder with two classes, and a clip of a third."""
    folder = tmp_path_factory.mktemp("unknown")
    weights = small / "weights.safetensors"
    encoder = d2st.adapt("test_resnet", d2st.VanillaConfig(), frames=4, pretrained=weights, image_size=32)
    heads.save(heads.build("bi-mhm"), encoder.save_pretrained(folder / "adapter"))
    for name in ("pink", "teal"):
        (folder / "support" / name).mkdir(parents=True)
        for n in range(4):
            shutil.copy(small / "data" / name / f"{n}.mp4", folder / "support" / name)
    (folder / "new").mkdir()
    for name in ("pink", "teal", "red"):
        shutil.copy(small / "data" / name / "4.mp4", folder / "new" / f"{name}.mp4")
    return folder


def test_a_clip_of_none_of_the_classes_is_unknown(small, adapter, capsys) -> None:
    """The whole way from the command line: from the support set, without a word, and from a calibration."""
    model = ["--adapter", str(adapter / "adapter"), "--weights", str(small / "weights.safetensors"), "--device", "cpu"]
    ask = ["predict", "--support", str(adapter / "support"), "--query", str(adapter / "new"), *model]

    def answered(*more: str) -> dict[str, str]:
        assert cli.main([*ask, "--format", "csv", *more]) == 0
        rows = {row["clip"].split("/")[-1]: row for row in csv.DictReader(capsys.readouterr().out.splitlines())}
        sure = [float(rows[f"{name}.mp4"]["confidence"]) for name in ("pink", "teal", "red")]
        assert 0 <= sure[2] < min(sure[:2]) <= max(sure) <= 1
        assert rows["red.mp4"]["label"] in ("pink", "teal")
        return {name.removesuffix(".mp4"): row["answer"] for name, row in rows.items()}

    assert answered() == {"pink": "pink", "teal": "teal", "red": "unknown"}
    assert answered("--reject-rate", "0.99")["red"] == "unknown"
    for name in ("pink", "teal"):
        for n in (1, 2, 3):
            (adapter / "support" / name / f"{n}.mp4").rename(adapter / f"{name}{n}.mp4")
    assert cli.main([*ask, "--format", "jsonl"]) == 0
    output = capsys.readouterr()
    assert "No clip is answered 'unknown': with one example" in output.err
    records = [json.loads(line) for line in output.out.splitlines()]
    assert all(r["answer"] == r["label"] and not r["unknown"] for r in records)
    data = ["--data", str(small / "data"), "--split", str(small / "split.yaml"), "--way", "1", "--shot", "1"]
    fit = [
        "eval",
        *data,
        "--part",
        "val",
        *model,
        "--episodes",
        "99",
        "--open-set",
        "--save-calibration",
        str(adapter / "adapter"),
    ]
    assert cli.main(fit) == 0
    assert "calibration is written" in capsys.readouterr().out
    assert answered() == {"pink": "pink", "teal": "teal", "red": "unknown"}
    assert cli.main(["eval", *data, *model, "--episodes", "99", "--open-set", "--heads", "bi-mhm,otam"]) == 0
    output = capsys.readouterr()
    assert "threshold of" in output.out and "is not used: it was fitted for" in output.err
    found = d2st.FewShotClassifier.from_pretrained(adapter / "adapter", weights=small / "weights.safetensors")
    found.fit(adapter / "support")
    assert found.never_unknown is None and found.predict(adapter / "new" / "red.mp4").answer == "unknown"
    found.save_pretrained(adapter / "kept")
    assert (adapter / "kept" / "calibration.json").exists()
    with pytest.raises(D2STError, match="The calibration was fitted for"):
        d2st.FewShotClassifier(found.encoder, "otam", calibration=adapter / "adapter")


def test_the_answer_follows_the_classes(small) -> None:
    weights, data = small / "weights.safetensors", small / "data"
    encoder = d2st.adapt("test_resnet", d2st.NoneConfig(), frames=4, pretrained=weights, image_size=32)
    classifier = d2st.FewShotClassifier(encoder)
    classifier.fit({name: [data / name / f"{n}.mp4" for n in range(4)] for name in ("pink", "teal")})
    red = classifier.encode(data / "red" / "4.mp4")
    assert classifier.match(red).unknown and classifier.match(red).answer == "unknown"
    classifier.add_class("red", [data / "red" / f"{n}.mp4" for n in range(4)])
    assert classifier.match(red).answer == "red"
    classifier.remove_class("red")
    assert classifier.match(red).unknown
    classifier.remove_class("teal")  # is it this action or not
    assert classifier.match(red).unknown and not classifier.predict(data / "pink" / "4.mp4").unknown
    for rate in (1, "0.05", True, float("nan")):
        with pytest.raises(D2STError, match="reject rate is a share"):
            d2st.FewShotClassifier(encoder, reject_rate=rate)
    with pytest.raises(D2STError, match="text='clean' must be TextConfig"):
        d2st.FewShotClassifier(encoder, text="clean")
