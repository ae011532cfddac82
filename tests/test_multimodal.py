"""The multimodal model from end to end on a small CLIP: train, eval, search, predict, with the names of the classes."""

import json
from pathlib import Path

import pytest
import small
import small_clip
import torch

import d2st
from d2st import heads
from d2st.commands import cli
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.data.episodes import EpisodeSampler
from d2st.errors import D2STError
from d2st.evaluation.episodes import best_mixing, score, search_mixing
from d2st.factory import heads as choice


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return small_clip.write_clip(tmp_path_factory.mktemp("clip"))[1]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def run(small_folder, clip, tmp_path_factory) -> Path:
    """A short training run of D2ST-Adapter-MM from the command line."""
    out = tmp_path_factory.mktemp("run")
    arguments = [
        *("train", *model_flags(small_folder, clip), "--way", "3", "--episodes", "8", "--episodes-per-step", "4"),
        *("--validation-episodes", "10", "--head", "clip-fsar", "--head.hidden", "8", "--head-lr", "0.1"),
        *(flag for key, value in heads.D2ST_MM.items() for flag in (f"--head.{key}", value)),
        *("--text.names", "clean", "--text.templates", "a video of {}", "--adapter.ratio", "0.125"),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(out / "cache"))
        assert cli.main([*arguments, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory) -> Path:
    return small.write_dataset(tmp_path_factory.mktemp("data"))


def model_flags(folder: Path, clip: Path) -> list[str]:
    flags = ["--data", str(folder / "data"), "--split", str(folder / "split.yaml"), "--device", "cpu"]
    flags += ["--backbone", small_clip.BACKBONE, "--weights", str(clip), "--image-size", "32", "--frames", "2"]
    return [*flags, "--text.model", "small", "--text.weights", str(clip)]


def test_a_trained_head_remembers_projection_and_names(run, clip) -> None:
    """The run keeps the head with CLIP's own projection and how its names were told, but no path of this machine."""
    saved = json.loads((run / "best" / "head_config.json").read_text())
    assert saved["text"] == {"model": "small", "weights": None, "names": "clean", "templates": "a video of {}"}
    assert saved["head"]["metric"] == "bi-mhm" and saved["head"]["joint"] == small_clip.JOINT
    head, encoder = heads.load(run / "best"), d2st.load(run / "best", weights=clip)
    expected = d2st.text.visual_projection(encoder, clip)
    assert torch.equal(head.projection.linear.weight, expected.weight)
    record = json.loads((run / "train.json").read_text())
    assert record["head_parameters"] == sum(p.numel() for p in head.trainable_parameters()) > 0


def test_evaluation_of_every_head_and_search_of_the_mixing(run, small_folder, clip, tmp_path, capsys) -> None:
    common = {**small.options(small_folder), "way": 2, "shot": 1, "episodes": 40, "out": str(tmp_path)}
    common |= {"backbone": None, "image_size": None, "frames": None, "weights": str(clip)}
    config = EvalConfig(
        **common, adapter_path=str(run / "best"), text=heads.TextConfig("small", str(clip)), heads="all", part="val"
    )
    result = evaluate(config)
    assert {r["head"] for r in result["results"]} == {
        *("bi-mhm", "clip-fsar", "logistic", "otam", "product", "prototype", "ridge", "zero-shot")
    }
    assert "tells no phases" in result["left_out"].pop("phases")
    assert set(result["left_out"].values()) == {"not trained"}
    arguments = ["eval", "--data", common["data"], "--split", common["split"], "--part", "val", "--device", "cpu"]
    arguments += ["--weights", str(clip), "--text.weights", str(clip), "--adapter", str(run / "best"), "--way", "2"]
    arguments += ["--shot", "1", "--episodes", "40", "--out", str(tmp_path)]
    capsys.readouterr()
    assert cli.main([*arguments, "--search-mixing"]) == 0
    assert "--head.inference combine --head.mixing" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "eval.json").read_text())["results"]
    value = found["mixing"]["best"]
    assert cli.main([*arguments, "--head.mixing", str(value)]) == 0
    (again,) = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert again["accuracy"] == pytest.approx(found["mixing"]["accuracies"][str(value)])
    assert cli.main([*arguments, "--search-mixing", "--part", "test"]) == 2
    assert "searched on validation classes" in capsys.readouterr().err
    assert cli.main([*arguments, "--search-mixing", "--head", "otam"]) == 2
    assert "Only the head clip-fsar has a mixing exponent" in capsys.readouterr().err


def test_prediction_keeps_the_names_features(run, small_folder, clip, tmp_path) -> None:
    """A saved classifier answers the same without a text tower, until it meets a new name."""
    encoder, head = d2st.load(run / "best", weights=clip), heads.load(run / "best")
    told = heads.TextConfig(weights=str(clip))
    classifier = d2st.FewShotClassifier(encoder, head, text=told)
    clips = {name: [small_folder / "data" / name / f"{n}.mp4" for n in (0, 1)] for name in ("pink", "sand")}
    query = small_folder / "data" / "sand" / "4.mp4"
    answer = classifier.fit(clips).predict(query)
    classifier.save_pretrained(tmp_path)
    again = d2st.FewShotClassifier.from_pretrained(tmp_path, weights=clip)
    assert again.predict(query).logits == pytest.approx(answer.logits, abs=1e-5)
    teal = [small_folder / "data" / "teal" / "0.mp4"]
    with pytest.raises(D2STError, match="lacks its weights"):
        again.add_class("teal", teal)
    assert again.predict(query).logits == pytest.approx(answer.logits, abs=1e-5)
    classifier.add_class("teal", teal)
    assert set(classifier.predict(query).scores) == {"pink", "sand", "teal"}


def test_a_class_that_is_told_by_the_words_of_another_is_refused(run, small_folder, clip) -> None:
    """The second would never be answered; also where the first was told long before."""
    told = heads.TextConfig(weights=str(clip))
    classifier = d2st.FewShotClassifier(d2st.load(run / "best", weights=clip), heads.load(run / "best"), text=told)
    pink, sand = (small_folder / "data" / name / "0.mp4" for name in ("pink", "sand"))
    classifier.fit({"2_point_shot": [pink], "dunk": [pink]}).predict(pink)
    with pytest.raises(D2STError, match="'2_point_shot' and '3_point_shot' are told by the same words"):
        classifier.add_class("3_point_shot", [sand])
    assert classifier.classes == ("2_point_shot", "dunk")
    classifier.add_class("dunk", [sand])
    encoded = classifier.encode(sand)
    classifier.set_class("3_point_shot", encoded.frames[None], encoded.tokens[None])
    with pytest.raises(D2STError, match="are told by the same words"):
        classifier.predict(pink)


def test_a_backbone_that_is_no_clip_is_refused_with_a_sentence(small_folder, capsys) -> None:
    flags = ["--data", str(small_folder / "data"), "--backbone", "test_resnet", "--image-size", "32", "--device", "cpu"]
    flags += ["--weights", str(small_folder / "weights.safetensors"), "--way", "2", "--shot", "1", "--episodes", "2"]
    assert cli.main(["eval", *flags, "--head", "zero-shot"]) == 2
    assert "The visual projection of CLIP cannot be loaded: test_resnet is no CLIP" in capsys.readouterr().err
    assert cli.main(["eval", *flags, "--heads", "bi-mhm", "zero-shot"]) == 0
    assert "visual projection" in " ".join(capsys.readouterr().out.split())


def test_the_search_is_the_score_of_each_value() -> None:
    """One pass gives what an evaluation with each exponent gives; several shots, both ways to merge."""
    torch.manual_seed(0)
    centers = torch.randn(4, 1, 1, 16)
    clips = (centers + 1.5 * torch.randn(4, 6, 3, 16)).flatten(0, 1).unsqueeze(1)  # (24, 1, T, D)
    text = centers.flatten(1) + 1.5 * torch.randn(4, 16)
    sampler = EpisodeSampler(torch.arange(4).repeat_interleave(6).numpy(), 3, 2, 2, seed=0)
    for merge in ("before", "after"):
        head = heads.build("clip-fsar", features=16, hidden=8, merge=merge, inference="combine", scale=10.0).eval()
        with torch.no_grad():
            embedded = head.embed(clips)
        found = search_mixing(embedded, sampler, head, 60, text, values=(0.0, 0.35, 1.0))
        for value, accuracy in found.items():
            head.mixing = value
            assert score(embedded, sampler, head, 60, text=text).mean == pytest.approx(accuracy)
        assert len(set(found.values())) > 1


def test_of_equally_good_exponents_the_middle_one_is_taken() -> None:
    assert best_mixing({0.0: 0.5, 0.1: 0.7, 0.2: 0.7, 0.3: 0.7, 0.4: 0.6}) == 0.2


def test_one_head_or_several_need_the_same_names(small_folder, clip) -> None:
    encoder = d2st.adapt(small_clip.BACKBONE, d2st.NoneConfig(), frames=2, pretrained=clip, image_size=32)
    told = heads.TextConfig("small", str(clip))
    head, trained = choice.load_or_create_head("zero-shot", encoder, 2, weights=clip)
    assert trained and choice.name_features(head, encoder, ["a", "b"], told).shape == (2, small_clip.JOINT)
    assert head.text == told
    assert choice.name_features(choice.load_or_create_head("otam", encoder, 2)[0], encoder, ["a"], told) is None
