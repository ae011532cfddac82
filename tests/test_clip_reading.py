"""How clips are read belongs to what was made from them: adapters, heads, calibrations, support sets, results."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from small import options as small_options

import d2st
from d2st import FewShotClassifier, VideoClassifier
from d2st.commands.cli import run as run_verb
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.evaluate_classifier import FullShotEvalConfig, evaluate_full_shot
from d2st.commands.export import ExportConfig, export
from d2st.commands.predict import PredictConfig, predict
from d2st.commands.train import TrainConfig, train
from d2st.commands.train_classifier import FullShotTrainConfig, train_full_shot
from d2st.data.clip_reading import ClipReading, choose_reading
from d2st.errors import D2STError
from d2st.heads import head_file as head_files

READINGS = st.builds(
    ClipReading,
    frames=st.integers(1, 64),
    sampling=st.sampled_from(("uniform", "rate50", "rate35", "stride", "tsn")),
    transforms=st.sampled_from(("plain", "released")),
    image_size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    precision=st.sampled_from((None, "fp32", "bf16", "fp16")),
    stride=st.integers(1, 64) | st.lists(st.integers(1, 64), min_size=1, max_size=3).map(tuple),
    test_frames=st.sampled_from(("centre", "random")),
)
ODD = {"frames": 6, "sampling": "rate35", "transforms": "released"}  # and in precision="bf16"


def training(folder, out, **more) -> TrainConfig:
    settings = {"way": 3, "shot": 1, "queries": 1, "episodes": 4, "episodes_per_step": 4, "validate_every": 0}
    return TrainConfig(**small_options(folder, out=str(out), **settings | more))


def evaluation(folder, **more) -> EvalConfig:
    settings = {"way": 3, "shot": 1, "queries": 2, "episodes": 20, "frames": None}
    model = {"backbone": None, "image_size": None} if more.get("adapter_path") else {}
    return EvalConfig(**small_options(folder, **settings | model | more))


@pytest.fixture(scope="module")
def plain(small, tmp_path_factory):
    """Folder of an adapter that was trained on 4 uniform frames."""
    out = tmp_path_factory.mktemp("plain")
    train(training(small, out))
    return out / "best"


@pytest.fixture(scope="module")
def odd(small, plain, tmp_path_factory):
    """Folder of an adapter that began as ``plain`` and went on as ``ODD``, in bf16."""
    out = tmp_path_factory.mktemp("odd")
    more = {"adapter_path": str(plain), "backbone": None, "image_size": None, "precision": "bf16"}
    train(training(small, out, **more, **ODD))
    return out / "best"


@given(reading=READINGS, other=READINGS)
def test_a_record_is_kept_whole_and_compared_both_ways(reading: ClipReading, other: ClipReading) -> None:
    written = json.loads(json.dumps(reading.to_dict()))
    assert ClipReading.from_dict(written, "here") == reading
    assert not reading.difference(reading) and not reading.precision_difference(reading)
    assert bool(reading.difference(other)) == bool(other.difference(reading))
    assert not reading.difference(replace(reading, precision="fp32", image_size=None)), "what is not known is not apart"
    if other.frames != reading.frames:
        assert f"{reading.frames} frame" in reading.difference(other).split("; this reads ")[0]


def test_a_damaged_record_is_a_sentence() -> None:
    for broken in (None, [], {"frames": 0}, {"frames": 4, "sampling": "rate34"}, {"frames": 4, "speed": 1}, {}):
        with pytest.raises(D2STError, match=r"^reading in a/adapter_config\.json"):
            ClipReading.from_dict(broken, "reading in a/adapter_config.json")


def test_an_adapter_says_how_the_clips_were_read_that_it_was_trained_on(small, plain, odd) -> None:
    about = json.loads((odd / "adapter_config.json").read_text())
    assert about["frames"] == 6 and about["reading"]["frames"] == 6
    encoder = d2st.load(odd, weights=small / "weights.safetensors")
    expected = ClipReading(**ODD, image_size=(32, 32), precision="bf16")
    assert encoder.frames == 6 and encoder.reading == expected
    assert head_files.load(odd).reading == expected
    assert d2st.load(plain, weights=small / "weights.safetensors").reading.frames == 4


def test_verbs_take_what_the_adapter_was_trained_with_and_say_so(small, odd, tmp_path, capsys) -> None:
    result = evaluate(evaluation(small, adapter_path=str(odd), out=str(tmp_path)))
    assert "Clips are read as the adapter was trained: 6 frames a clip, sampling rate35" in capsys.readouterr().err
    assert {key: result["reading"][key] for key in ODD} == ODD
    assert result["trained_reading"]["precision"] == "bf16" and result["reading"]["precision"] == "fp32"
    written = json.loads((tmp_path / "eval.json").read_text())["config"]
    assert {key: written[key] for key in ODD} == ODD
    weights = str(small / "weights.safetensors")
    classifier = FewShotClassifier.from_pretrained(odd, weights=weights)
    assert (classifier.frames, classifier.sampling, classifier.reading.transforms) == tuple(ODD.values())
    about = export(ExportConfig(out=str(tmp_path), format="pt2", adapter_path=str(odd), weights=weights))["encoder"]
    assert {key: about[key] for key in ODD} == ODD
    assert (about["resize"], about["interpolation"]) == ("to 37x37, then center crop", "bilinear")


def test_another_reading_than_the_adapter_s_is_done_and_told(small, odd, capsys) -> None:
    own = {"frames": 4, "sampling": "uniform", "transforms": "plain"}
    result = evaluate(evaluation(small, adapter_path=str(odd), **own))
    said = capsys.readouterr().err
    assert "The adapter was trained on 6 frames a clip, sampling rate35, released transforms; this reads 4" in said
    assert "clips in bf16; this is fp32" in said
    assert {key: result["reading"][key] for key in own} == own


def test_released_transforms_reach_a_recognizer(small, odd, tmp_path) -> None:
    """Predicting is what the evaluation measured: the same features of the same clip."""
    from d2st.data.video.open import reader

    classifier = FewShotClassifier.from_pretrained(odd, weights=small / "weights.safetensors")
    clip = small / "data" / "teal" / "0.mp4"
    video = classifier.encoder.transform(transforms="released")(reader(clip).read_clip(clip, classifier.sample))
    with torch.no_grad():
        expected = classifier.encoder(video[None])[0]
    assert torch.allclose(classifier.encode(clip).frames, expected, atol=1e-6)
    plain = FewShotClassifier(classifier.encoder, transforms="plain")
    assert not torch.allclose(plain.encode(clip).frames, expected, atol=1e-3)
    support = tmp_path / "support"
    for name in ("teal", "sand"):
        (support / name).mkdir(parents=True)
        (support / name / "0.mp4").symlink_to(small / "data" / name / "1.mp4")
    weights = str(small / "weights.safetensors")
    result = predict(
        PredictConfig(str(clip), support=str(support), adapter_path=str(odd), weights=weights, device="cpu")
    )
    assert {key: result["reading"][key] for key in ODD} == ODD


def test_an_encoder_of_one_s_own_comes_back_as_the_best_one_with_its_frames(small, tmp_path) -> None:
    weights = small / "weights.safetensors"
    encoder = d2st.adapt("test_resnet", frames=4, pretrained=weights, image_size=32)
    config = training(small, tmp_path, frames=6, episodes=12, validate_every=4, validation_episodes=20, lr=3e-2)
    train(config, encoder)
    assert not encoder.training and encoder.frames == 6 and encoder.reading.frames == 6
    best = d2st.load(tmp_path / "best", weights=weights)
    assert best.frames == 6 and best.laid_out == encoder.laid_out == 4
    for name, tensor in best.adapter_state_dict().items():
        assert torch.equal(tensor, encoder.adapter_state_dict()[name])


def test_a_classifier_s_adapter_says_how_its_clips_were_read(small, plain, tmp_path, capsys) -> None:
    """As ``train --head linear`` has it, and as a few-shot command takes it then."""
    more = {"adapter_path": str(plain), "backbone": None, "image_size": None, "split": None, "frames": 6}
    run = {"epochs": 0.2, "warmup_epochs": 0, "clips_per_step": 8, "sampling": "stride", "stride": 2}
    train_full_shot(FullShotTrainConfig(**small_options(small, out=str(tmp_path), validate_every=0, **more, **run)))
    said = capsys.readouterr().err
    assert (
        "trained before on 4 frames a clip, sampling uniform; this reads 6 frames a clip, sampling stride (2)" in said
    )
    common = {"split": None, "frames": None, "adapter_path": str(tmp_path / "best"), "workers": 0, "batch_size": 4}
    options = {key: small_options(small)[key] for key in ("data", "weights", "device")} | common
    model = VideoClassifier.from_pretrained(tmp_path / "best", weights=small / "weights.safetensors")
    assert (model.encoder.frames, model.encoder.reading.sampling, model.encoder.reading.stride) == (6, "stride", 2)
    result = evaluate_full_shot(FullShotEvalConfig(**options))
    assert result["reading"]["frames"] == 6 and not capsys.readouterr().err
    evaluate_full_shot(FullShotEvalConfig(**options | {"sampling": "uniform"}))
    assert "The classifier was trained on sampling stride (2); this reads sampling uniform." in capsys.readouterr().err
    few_shot = evaluate(evaluation(small, adapter_path=str(tmp_path / "best")))
    assert (few_shot["reading"]["sampling"], few_shot["reading"]["stride"]) == ("stride", 2)


def test_print_config_says_what_is_taken(small, odd, capsys) -> None:
    with pytest.raises(SystemExit):
        run_verb("eval", ["--data", "data", "--adapter", str(odd), "--frames", "8", "--print-config"])
    printed = capsys.readouterr().out
    assert "\nframes: 8\n" in printed
    assert "sampling: null  # as the adapter was trained: rate35\n" in printed
    assert "transforms: null  # as the adapter was trained: released\n" in printed


def test_layouts_that_depend_on_the_frames_are_kept_or_refused(tmp_path) -> None:
    embedded = d2st.adapt("test_vit", d2st.D2STConfig(temporal_embedding=True), frames=4, pretrained=False)
    embedded.lay_out(ClipReading(8))
    video = torch.randn(1, 8, 3, *embedded.image_size)
    embedded.adapters["temporal_embedding"].weight.data.normal_()
    again = d2st.load(embedded.save_pretrained(tmp_path), backbone=embedded_twin(embedded))
    assert (again.frames, again.laid_out) == (8, 4)
    with torch.no_grad():
        assert torch.allclose(embedded(video), again(video), atol=1e-6)
    fixed = d2st.adapt("test_vit", d2st.DualPathConfig(tiles=2, spatial_frames=4), frames=4, pretrained=False)
    with pytest.raises(D2STError, match=r"laid out for clips of 4 frames and cannot be trained on 8: DualPath"):
        fixed.lay_out(ClipReading(8))
    assert fixed.frames == 4 and fixed.reading is None


def embedded_twin(encoder) -> torch.nn.Module:
    """A fresh backbone with the frozen weights of an encoder's."""
    import timm

    twin = timm.create_model("test_vit", num_classes=0)
    own = encoder.backbone.state_dict()
    twin.load_state_dict({key: own[key] for key in twin.state_dict()})
    return twin


def test_files_from_before_the_record_are_read_as_they_were_made(small, plain, tmp_path, capsys) -> None:
    """Without a record the old code's defaults hold: the adapter's frames, uniform, plain."""
    weights = small / "weights.safetensors"
    for file in plain.iterdir():
        content = file.read_bytes()
        if file.suffix == ".json":
            content = json.dumps({k: v for k, v in json.loads(content).items() if k != "reading"}).encode()
        (tmp_path / file.name).write_bytes(content)
    encoder = d2st.load(tmp_path, weights=weights)
    assert encoder.reading is None and ClipReading.of(encoder) == ClipReading(4, image_size=(32, 32), precision="fp32")
    classifier = FewShotClassifier.from_pretrained(tmp_path, weights=weights)
    clips = {name: [small / "data" / name / f"{n}.mp4" for n in range(2)] for name in ("teal", "sand")}
    support = classifier.fit(clips).save_support(tmp_path / "support.safetensors")
    with safe_open(support, "pt") as file:
        about = {key: value for key, value in file.metadata().items() if key != "reading"}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    save_file(tensors, support, about)
    assert FewShotClassifier.from_pretrained(tmp_path, weights=weights).classes == ("teal", "sand")
    with pytest.raises(D2STError, match="has plain transforms; this reads released transforms"):
        FewShotClassifier(encoder, transforms="released").load_support(support)
    assert not capsys.readouterr().err
    assert choose_reading(EvalConfig(data="data", precision="fp32"), encoder) == ClipReading(
        4, image_size=(32, 32), precision="fp32"
    )


def test_a_calibration_holds_for_clips_that_are_read_as_those_it_was_fitted_to(small, plain, tmp_path, capsys) -> None:
    weights = small / "weights.safetensors"
    common = {"part": "val", "way": 1, "open_set": True, "adapter_path": str(plain)}
    for frames in (4, 12):
        evaluate(evaluation(small, **common, frames=frames, save_calibration=str(tmp_path / f"{frames}.json")))
    encoder = d2st.load(plain, weights=weights)
    assert FewShotClassifier(encoder, calibration=tmp_path / "4.json").calibration
    assert FewShotClassifier(encoder, frames=12, calibration=tmp_path / "12.json").calibration
    for wrong, said in (
        ({}, "fitted to 12 frames a clip; this reads 4 frames a clip"),
        ({"frames": 12, "sampling": "rate50"}, "fitted to sampling uniform; this reads sampling rate50"),
        ({"frames": 12, "transforms": "released"}, "fitted to plain transforms; this reads released"),
    ):
        with pytest.raises(D2STError, match=said):
            FewShotClassifier(encoder, calibration=tmp_path / "12.json", **wrong)
    with pytest.raises(D2STError, match="fitted to 12 frames"):
        evaluate(evaluation(small, **common, calibration=str(tmp_path / "12.json")))
    capsys.readouterr()
    assert FewShotClassifier(encoder, precision="bf16", calibration=tmp_path / "4.json").calibration
    assert "The calibration was fitted to clips in fp32; this is bf16" in capsys.readouterr().err
    for name in ("4", "12"):  # as the version before wrote it: of the frames of the model
        content = json.loads((tmp_path / f"{name}.json").read_text())
        del content["reading"]
        (tmp_path / "old.json").write_text(json.dumps(content))
        assert FewShotClassifier(encoder, calibration=tmp_path / "old.json").calibration
    with pytest.raises(D2STError, match="fitted to 4 frames a clip; this reads 12"):
        FewShotClassifier(encoder, frames=12, calibration=tmp_path / "old.json")
    with pytest.raises(D2STError, match="reads the central test frames"):
        evaluate(evaluation(small, **common, test_frames="random", save_calibration=str(tmp_path)))


def test_a_calibration_beside_an_adapter_is_passed_over_where_clips_are_read_otherwise(small, plain, tmp_path, capsys):
    folder = shutil.copytree(plain, tmp_path / "adapter")
    common = {"part": "val", "way": 1, "open_set": True, "adapter_path": str(folder)}
    evaluate(evaluation(small, **common, save_calibration=str(folder)))
    assert not capsys.readouterr().err.strip()
    evaluate(evaluation(small, **common, frames=12))
    said = capsys.readouterr().err
    assert "calibration.json is not used: it was fitted to 4 frames a clip; this reads 12 frames a clip." in said
