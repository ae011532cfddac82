"""``FewShotClassifier`` and ``d2st predict``."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import small
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import d2st
from d2st import heads
from d2st.classifiers.few_shot import FewShotClassifier
from d2st.classifiers.prediction import Prediction
from d2st.classifiers.rejector import RATES, CalibrationFile, Entry
from d2st.classifiers.support_set import SavedSupport
from d2st.commands.predict import PredictConfig, predict
from d2st.data.video.reader import VideoError, read_clip
from d2st.errors import D2STError
from d2st.evaluation.cost import count_flops
from d2st.factory import heads as choice
from d2st.features.fingerprint import Origin
from d2st.heads import HeadSpec, TextConfig


@pytest.fixture(scope="module")
def encoder(small):
    return d2st.adapt(
        "test_resnet", d2st.D2STConfig(), frames=4, pretrained=small / "weights.safetensors", image_size=32
    )


@pytest.fixture
def support(small, tmp_path):
    """A folder with 2, 3 and 1 examples of three classes."""
    for name, shots in {"pink": 2, "sand": 3, "teal": 1}.items():
        (tmp_path / "support" / name).mkdir(parents=True)
        for n in range(shots):
            shutil.copy(small / "data" / name / f"{n}.mp4", tmp_path / "support" / name)
    return tmp_path / "support"


def test_learns_from_a_folder_and_explains(small, encoder, support) -> None:
    classifier = FewShotClassifier(encoder).fit(support)
    assert classifier.classes == ("pink", "sand", "teal")
    for name in classifier.classes:
        prediction = classifier.predict(small / "data" / name / "4.mp4")
        assert prediction.label == name == next(iter(prediction.scores))
        assert sum(prediction.scores.values()) == pytest.approx(1)
        assert list(prediction.scores.values()) == sorted(prediction.scores.values(), reverse=True)
        assert list(prediction.logits) == list(prediction.scores)
    features = classifier.encode(small / "data" / "teal" / "4.mp4").frames
    prototype = classifier.support["teal"].frames.mean(0)
    distances = 1 - torch.nn.functional.normalize(features, dim=1) @ torch.nn.functional.normalize(prototype, dim=1).T
    for match in prediction.matches:
        row = distances[match.query_frame]
        assert match.support_frame == row.argmin() and match.distance == pytest.approx(row.min().item(), abs=1e-5)
    assert [m.query_frame for m in prediction.matches] == [0, 1, 2, 3]


def test_classes_come_and_go_without_encoding_again(small, encoder, monkeypatch) -> None:
    clips = {name: [small / "data" / name / f"{n}.mp4" for n in (0, 1)] for name in ("pink", "sand", "teal")}
    whole = FewShotClassifier(encoder).fit(clips)
    parts = FewShotClassifier(encoder).fit({"red": clips["pink"], "pink": clips["pink"][:1]})
    parts.add_class("sand", clips["sand"])
    parts.add_class("pink", clips["pink"][1:])
    parts.add_class("teal", clips["teal"])
    query = parts.encode(small / "data" / "sand" / "3.mp4")
    monkeypatch.setattr(FewShotClassifier, "encode", lambda *_: pytest.fail("encoded again"))
    assert parts.match(query).logits.keys() == {"red", "pink", "sand", "teal"}
    parts.remove_class("red")
    assert parts.match(query) == whole.match(query)


def test_paths_frames_and_normalized_frames_agree(small, encoder) -> None:
    path = small / "data" / "pink" / "3.mp4"
    classifier = FewShotClassifier(encoder).fit({"pink": [path], "sand": [small / "data" / "sand" / "0.mp4"]})
    sampled = read_clip(path, classifier.sample)
    every = read_clip(path, lambda length, fps, rng: torch.arange(length).numpy())
    one, two, three = classifier.predict([path, every, classifier.transform(sampled)])
    assert one == two == three
    assert isinstance(classifier.predict(str(path)), Prediction)


def test_a_folder_is_fitted_in_batches_without_its_unreadable_clips(small, encoder, tmp_path, caplog) -> None:
    for name in ("pink", "sand"):
        (tmp_path / name).mkdir()
        for n in range(3):
            (tmp_path / name / f"{n}.mp4").symlink_to(small / "data" / name / f"{n}.mp4")
    (tmp_path / "sand" / "1.mp4").unlink()
    (tmp_path / "sand" / "1.mp4").write_bytes(b"torn")
    classifier = FewShotClassifier(encoder).fit(tmp_path, workers=1, batch_size=2)
    assert [len(own.frames) for own in classifier.support.values()] == [3, 2]
    assert len(caplog.records) == 1 and "Passed over, cannot be read: sand/1.mp4: " in caplog.text
    given = FewShotClassifier(encoder).fit(
        {name: sorted((small / "data" / name).glob("[02].mp4")) for name in ["sand"]}
    )
    torch.testing.assert_close(classifier.support["sand"].frames, given.support["sand"].frames)
    torch.testing.assert_close(classifier.support["sand"].tokens, given.support["sand"].tokens)
    with pytest.raises(D2STError, match=r"1\.mp4.*cannot be read"):
        classifier.add_class("sand", [tmp_path / "sand" / "1.mp4"])
    for n in (0, 2):
        (tmp_path / "sand" / f"{n}.mp4").unlink()
    with pytest.raises(D2STError, match=r"The class 'sand' in '.*' has no examples: none of its 1 clips can be read"):
        classifier.fit(tmp_path)
    assert [len(own.frames) for own in classifier.support.values()] == [3, 2]


def test_save_and_load(small, encoder, support, tmp_path) -> None:
    classifier = FewShotClassifier(encoder, frames=5).fit(support)
    classifier.add_class("../odd/name", [small / "data" / "red" / "0.mp4"])
    classifier.save_pretrained(tmp_path / "saved")
    again = FewShotClassifier.from_pretrained(tmp_path / "saved", weights=small / "weights.safetensors")
    query = small / "data" / "sand" / "4.mp4"
    assert again.classes == classifier.classes and again.predict(query) == classifier.predict(query)
    (tmp_path / "saved" / "support.safetensors").write_bytes(b"torn")
    with pytest.raises(D2STError, match="cannot be read"):
        FewShotClassifier.from_pretrained(tmp_path / "saved", weights=small / "weights.safetensors")
    with pytest.raises(D2STError, match=r"holds no adapter_config\.json"):
        FewShotClassifier.from_pretrained(tmp_path)


def test_a_support_set_is_one_file(small, encoder, support, tmp_path) -> None:
    classifier = FewShotClassifier(encoder).fit(support)
    classifier.add_class("../odd/name", [small / "data" / "red" / "0.mp4"])
    file = classifier.save_support(tmp_path / "new" / "friends.safetensors")
    with safe_open(file, "pt") as written:
        about = written.metadata()
    assert json.loads(about["classes"]) == [*classifier.classes] and json.loads(about["shots"]) == [2, 3, 1, 1]
    assert (about["frames"], about["backbone"], about["head"]) == ("4", "test_resnet", "bi-mhm")
    again = FewShotClassifier(encoder).fit({"gone": [small / "data" / "red" / "1.mp4"]}).load_support(file)
    query = small / "data" / "sand" / "4.mp4"
    assert again.classes == classifier.classes and again.predict(query) == classifier.predict(query)
    again.remove_class("sand")
    again.add_class("sand", [small / "data" / "sand" / "0.mp4"])
    assert again.predict(query).label == "sand"


def test_a_support_set_of_another_model_is_refused(small, encoder, support, tmp_path) -> None:
    file = FewShotClassifier(encoder).fit(support).save_support(tmp_path / "a.safetensors")
    weights, clip = small / "weights.safetensors", small / "data" / "pink" / "0.mp4"
    frozen = d2st.adapt("test_resnet", d2st.NoneConfig(), frames=4, pretrained=weights, image_size=32)
    trained = d2st.adapt("test_resnet", d2st.D2STConfig(), frames=4, pretrained=weights, image_size=32)
    with torch.no_grad():
        trained.trainable_parameters()[0].add_(0.1)
    for classifier, said in (
        (FewShotClassifier(frozen), "encoded by adapter d2st on test_resnet .*; this is adapter none on test_resnet"),
        (FewShotClassifier(trained), "but with other weights or options"),
        (FewShotClassifier(encoder, "otam"), "head bi-mhm; this is .* head otam"),
        (FewShotClassifier(encoder, HeadSpec("bi-mhm", {"cosine": "eps"})), "other weights or options"),
        (FewShotClassifier(encoder, frames=5), "has 4 frames a clip"),
        (FewShotClassifier(encoder, sampling="rate50"), "sampling='uniform'"),
    ):
        classifier.fit({"pink": [clip]})
        with pytest.raises(D2STError, match=said):
            classifier.load_support(file)
        assert classifier.classes == ("pink",)
    with pytest.raises(D2STError, match="There is no support set"):
        classifier.load_support(tmp_path / "gone.safetensors")
    with pytest.raises(D2STError, match=r"no support set that this d2st .* reads"):
        classifier.load_support(weights)
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(D2STError, match="cannot be read"):
        classifier.load_support(file)


def test_a_support_set_that_does_not_fit_leaves_the_classes_as_they_were(small, encoder, tmp_path) -> None:
    classifier = FewShotClassifier(encoder).fit({"pink": [small / "data" / "pink" / "0.mp4"]})
    good, path = SavedSupport.read(classifier.save_support(tmp_path / "good.safetensors")), tmp_path / "bad.safetensors"
    own = good.clips["pink"]
    for clips, said in (
        ({"sand": own, "teal": own[..., 1:]}, "cannot be read .its classes have features of different shapes"),
        ({"sand": own[0]}, "cannot be read"),
        ({"sand": own[:0]}, "cannot be read .not as many clips"),
        ({"sand": own[..., 1:]}, "is not what this recognizer would have written"),
    ):
        dataclasses.replace(good, clips=clips).write(path)
        with pytest.raises(D2STError, match=said):
            classifier.load_support(path)
        assert classifier.classes == ("pink",)


def test_a_calibration_does_not_outlive_its_classifier(small, encoder, tmp_path) -> None:
    weights, head = small / "weights.safetensors", FewShotClassifier(encoder).head
    found = CalibrationFile(Origin.of(encoder, head), (Entry(3, 1, 1, 1.0, 0.0, 1.0, (0.0,) * len(RATES)),))
    FewShotClassifier(encoder, calibration=found).save_pretrained(tmp_path)
    assert FewShotClassifier.from_pretrained(tmp_path, weights=weights).calibration == found
    FewShotClassifier(encoder, "otam").save_pretrained(tmp_path)
    assert FewShotClassifier.from_pretrained(tmp_path, weights=weights).calibration is None


def test_a_calibration_of_another_head_beside_an_adapter_is_passed_over(small, encoder, tmp_path, caplog) -> None:
    weights, classifier = small / "weights.safetensors", FewShotClassifier(encoder)
    heads.save(classifier.head, encoder.save_pretrained(tmp_path))
    entry = Entry(3, 1, 1, 1.0, 0.0, 1.0, (0.0,) * len(RATES))
    CalibrationFile(Origin.of(encoder, FewShotClassifier(encoder, "otam").head), (entry,)).write(tmp_path)
    assert FewShotClassifier.from_pretrained(tmp_path, weights=weights).calibration is None
    assert "is not used: it was fitted for" in caplog.text


def test_an_adapter_is_no_classifier(small, encoder, tmp_path) -> None:
    heads.save(FewShotClassifier(encoder).head, encoder.save_pretrained(tmp_path))
    saved = {"classifier": str(tmp_path), "weights": str(small / "weights.safetensors"), "device": "cpu"}
    with pytest.raises(D2STError, match="holds an adapter and no examples of classes; give it with --adapter"):
        predict(PredictConfig(str(small / "data" / "teal"), **saved))
    with pytest.raises(D2STError, match="knows no class yet"):
        FewShotClassifier(encoder).logits(torch.zeros(1, 4, encoder.num_features))


def test_how_names_are_told_is_kept(small, encoder, tmp_path, monkeypatch) -> None:
    """With a classifier that has not predicted, with a support set, and with a calibration."""
    monkeypatch.setattr(choice, "encode_names", lambda names, *_: torch.ones(len(names), encoder.num_features))
    clips = {name: [small / "data" / name / "0.mp4"] for name in ("pink", "sand")}

    def create(names: str | None) -> FewShotClassifier:
        head = heads.build("zero-shot", features=encoder.num_features).eval()
        return FewShotClassifier(encoder, head, text=names and TextConfig(names=names)).fit(clips)

    clean = create("clean")
    clean.save_pretrained(tmp_path)
    assert heads.load(tmp_path).text == TextConfig(names="clean")
    file = clean.save_support(tmp_path / "clean.safetensors")
    assert create("clean").load_support(file).classes == ("pink", "sand")
    for names in ("raw", None):
        with pytest.raises(D2STError, match="told names clean, templates photo; this one is told names raw"):
            create(names).load_support(file)
    entry = Entry(3, 1, 1, 1.0, 0.0, 1.0, (0.0,) * len(RATES))
    path = CalibrationFile(Origin.of(encoder, clean.head), (entry,)).write(tmp_path / "calibration.json")
    found = CalibrationFile.read(path)
    assert found.check(encoder, clean.head, clean.reading) is found
    with pytest.raises(D2STError, match=r"The calibration was fitted for .* told names clean"):
        found.check(encoder, create("raw").head, clean.reading)
    old = dataclasses.replace(found.origin, text="")  # files of before
    assert old.fits(found.origin) and "text" not in old.to_dict()


def test_what_cannot_be_used_is_refused_with_a_sentence(small, encoder, tmp_path) -> None:
    classifier = FewShotClassifier(encoder)
    clip = small / "data" / "pink" / "0.mp4"
    for act, said in (
        (lambda: classifier.predict(clip), "knows no class yet"),
        (lambda: classifier.never_unknown, "knows no class yet"),
        (lambda: classifier.fit({}), "at least one class"),
        (lambda: classifier.fit({"pink": []}), "Class 'pink' has no clips"),
        (lambda: classifier.fit({"pink": clip}), "must be a list"),
        (lambda: classifier.fit({"pink": None}), "must be a list"),
        (lambda: classifier.fit(tmp_path / "nowhere"), "does not exist"),
        (lambda: classifier.fit(tmp_path), "holds no class folders"),
        (lambda: classifier.remove_class("bow"), "no class 'bow' to remove; the classes are: none"),
        (lambda: classifier.encode(torch.zeros(4, 32, 32, 3)), r"shape \(L, 3, H, W\)"),
        (lambda: classifier.encode(torch.zeros(4, 3, 32, 32, dtype=torch.int64)), "uint8 frames or normalized float"),
        (lambda: classifier.encode(torch.zeros(4, 3, 0, 32, dtype=torch.uint8)), r"shape \(L, 3, H, W\)"),
        (lambda: classifier.encode(torch.zeros(5, 3, 32, 32)), "has 4 of them here; this one has 5"),
        (lambda: classifier.encode(torch.full((4, 3, 32, 32), 255.0)), "must be normalized, and these reach 255"),
        (lambda: classifier.encode(np.zeros((4, 3, 32, 32), np.uint8)), "not numpy.ndarray; torch.from_numpy"),
        (lambda: classifier.encode(None), "a path or a tensor of frames, not NoneType"),
        (lambda: classifier.fit([clip]), "maps names of classes to lists of clips, or is a folder; it is no list"),
        (lambda: classifier.fit({3: [clip]}), "The name of a class is text, not 3; use '3'"),
        (lambda: classifier.add_class(None, [clip]), "The name of a class is text, not None"),
        (lambda: FewShotClassifier(encoder, head="nearest"), "no head named 'nearest'"),
        (lambda: FewShotClassifier("resnet18"), r"takes a video encoder, not a str: d2st\.load"),
        (lambda: d2st.VideoClassifier(encoder.backbone, 2), "takes a video encoder, not a ResNet"),
        (lambda: classifier.save_support(tmp_path), "is a folder, and a support set is a file"),
    ):
        with pytest.raises(D2STError, match=said):
            act()
    classifier.fit({"pink": [clip]})
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        classifier.add_class("sand", [tmp_path / "bad.mp4"])
    assert classifier.classes == ("pink",)


def config(small_folder, support, **more) -> PredictConfig:
    model = {k: v for k, v in small.options(small_folder).items() if k not in ("data", "split")}
    return PredictConfig(
        **model | {"support": support and str(support), "query": str(small_folder / "data" / "teal")} | more
    )


def test_predict_prints_every_format(small, support, capsys, tmp_path, monkeypatch) -> None:
    query = (str(small / "data" / "teal"), str(small / "data" / "sand" / "4.mp4"))
    result = predict(config(small, support, query=query, format="jsonl", workers=1, out=str(tmp_path / "out")))
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert records == result["predictions"] and [r["label"] for r in records] == ["teal"] * 5 + ["sand"]
    assert json.loads((tmp_path / "out" / "predict.json").read_text())["predictions"] == records
    predict(config(small, support, query=query, format="csv"))
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(r["clip"], r["label"]) for r in rows] == [(r["clip"], r["label"]) for r in records]
    assert float(rows[0]["teal"]) == pytest.approx(records[0]["scores"]["teal"], abs=1e-5)
    monkeypatch.setenv("COLUMNS", "400")
    named = shutil.copy(query[1], tmp_path / "serve [bold] :star:.mp4")  # what rich would take for its own
    (support / "sand").rename(support / "Pushing [something]")
    predict(config(small, support, query=str(named), top=2))
    printed = capsys.readouterr().out
    assert "serve [bold] :star:.mp4" in printed and printed.count("Pushing [something]") == 2


def test_predict_passes_over_what_it_cannot_read_and_says_so(small, support, capsys, tmp_path) -> None:
    query = shutil.copytree(small / "data" / "teal", tmp_path / "query")
    (query / "2.mp4").write_bytes(b"")
    (support / "sand" / "extra.mp4").write_bytes(b"x")
    (support / "sand" / "notes.txt").write_text("not a clip")
    result = predict(config(small, support, query=str(query), format="jsonl"))
    assert {clip["id"] for clip in result["unreadable"]} == {
        str(query / "2.mp4"),
        "sand/extra.mp4",
    }
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 4 and output.err.count("Passed over, cannot be read") == 2
    assert "notes.txt" in output.err


def test_predict_from_a_saved_classifier(small, support, capsys, tmp_path) -> None:
    first = predict(config(small, support, save=str(tmp_path / "saved")))
    weights = str(small / "weights.safetensors")
    query = str(small / "data" / "teal")
    saved = {"classifier": str(tmp_path / "saved"), "weights": weights, "device": "cpu", "out": str(tmp_path)}
    assert predict(PredictConfig(query, **saved)) == first
    written = json.loads((tmp_path / "predict.json").read_text())["config"]
    assert (written["head"]["name"], written["sampling"]) == ("bi-mhm", "uniform")
    file = str(tmp_path / "saved" / "support.safetensors")
    assert predict(config(small, file)) == first
    with pytest.raises(D2STError, match="was encoded by"):
        predict(config(small, file, head="otam"))


def test_predict_tells_what_a_saved_recognizer_does_not_keep(small, support, tmp_path, capsys) -> None:
    asked = config(small, support, save=str(tmp_path / "saved"), reject_rate=0.8)
    predict(asked)
    assert "The reject rate is not saved: give --reject-rate 0.8 with --classifier" in capsys.readouterr().err
    (tmp_path / "saved" / "report.json").write_text("{}")
    predict(dataclasses.replace(asked, reject_rate=0.05))
    told = capsys.readouterr().err
    assert "is of the recognizer that was there before, and so is its promise" in told and "not saved" not in told


def test_predict_refuses_what_a_saved_classifier_has_decided(small, tmp_path) -> None:
    saved = PredictConfig(str(small / "data" / "teal"), classifier="saved", weights="weights.safetensors")
    for more, flag in (
        ({"adapter_path": "best"}, "--adapter"),
        ({"adapter": d2st.STConfig()}, "--adapter"),
        ({"backbone": "test_resnet"}, "--backbone"),
        ({"image_size": 32, "frames": 8}, "--image-size, --frames"),
        ({"sampling": "rate50"}, "--sampling"),
        ({"head": "otam"}, "--head"),
        ({"text": TextConfig(names="clean")}, "--text"),
    ):
        with pytest.raises(D2STError, match=f"The saved classifier 'saved' has its own .*: leave out {flag}\\."):
            predict(dataclasses.replace(saved, **more))


def test_predict_refuses_with_a_sentence(small, support, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.mp4").write_bytes(b"x")
    for more, said in (
        ({"support": None}, "either a support folder"),
        ({"classifier": "x"}, "either a support folder"),
        ({"query": str(tmp_path / "gone.mp4")}, r"gone\.mp4' does not exist"),
        ({"query": str(tmp_path / "empty")}, "holds no video files"),
        ({"query": str(tmp_path / "bad.mp4")}, r"None of the query clips can be read; the first: .*bad\.mp4"),
    ):
        settings = {"support": str(support)} | more
        with pytest.raises(D2STError, match=said):
            predict(config(small, **settings))
    with pytest.raises(
        D2STError, match=r"no saved classifier: it holds no adapter_config\.json\. A folder with a folder"
    ):
        predict(PredictConfig(str(small / "data" / "teal"), classifier=str(support), device="cpu"))
    with pytest.raises(D2STError, match=r"bad\.mp4' is a file, and a saved classifier is a folder"):
        predict(PredictConfig(str(small / "data" / "teal"), classifier=str(tmp_path / "bad.mp4"), device="cpu"))
    shutil.copy(tmp_path / "bad.mp4", tmp_path / "empty" / "support.safetensors")
    with pytest.raises(D2STError, match="is a saved classifier; give it with --classifier"):
        predict(config(small, tmp_path / "empty"))
    shutil.copy(tmp_path / "bad.mp4", support / "support.safetensors")  # as learn --out leaves there
    assert predict(config(small, support))["predictions"]
    shutil.copy(tmp_path / "bad.mp4", support / "teal" / "0.mp4")
    with pytest.raises(D2STError, match=r"class 'teal' in .* has no examples: none of its 1 clips can be read"):
        predict(config(small, support))


def test_predict_tells_of_a_clip_that_is_an_example_of_two_classes(small, support, caplog) -> None:
    predict(config(small, support))
    assert "example of several classes" not in caplog.text
    shutil.copy(support / "teal" / "0.mp4", support / "sand" / "teal.mp4")
    predict(config(small, support))
    assert "One file is an example of several classes, which makes them alike; keep one: 'sand/teal" in caplog.text


@pytest.mark.parametrize("adapter", ["aim", "dst"])
def test_a_model_that_is_in_training_answers_as_in_eval_mode_and_stays_in_training(small, adapter) -> None:
    name = "test_vit" if adapter == "aim" else "test_resnet"
    encoder = d2st.adapt(name, adapter, frames=4, pretrained=False, image_size=32)
    head = heads.build("hyrsm", features=encoder.num_features)
    clips = {name: sorted((small / "data" / name).glob("[01].mp4")) for name in ("pink", "sand")}
    query = small / "data" / "pink" / "3.mp4"
    expected = FewShotClassifier(encoder.eval(), head.eval()).fit(clips).predict(query)
    encoder.train(), head.train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    modes = [module.training for module in encoder.modules()]
    classifier = FewShotClassifier(encoder, head).fit(clips)
    assert classifier.predict(query) == expected == classifier.predict(query)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    count_flops(encoder, torch.zeros(1, 4, 3, 32, 32))
    assert modes == [module.training for module in encoder.modules()] and head.training


def test_float_frames_of_another_size_are_refused(encoder) -> None:
    classifier = FewShotClassifier(encoder)
    with pytest.raises(D2STError, match=r"32x32 pixels here; these have 48x40\. .*uint8"):
        classifier.encode(torch.randn(4, 3, 48, 40))
    assert classifier.encode(torch.zeros(4, 3, 48, 40, dtype=torch.uint8)).frames.shape[0] == 4


def test_encoded_clips_of_another_shape_are_refused(encoder) -> None:
    classifier, width = FewShotClassifier(encoder), encoder.num_features
    for wrong in (torch.randn(4, width), torch.randn(0, 4, width), torch.ones(1, 4, width).long()):
        with pytest.raises(D2STError, match=r"Class 'n': features are floats \(clips, T, D\) of one clip or more"):
            classifier.set_class("n", wrong)
    with pytest.raises(D2STError, match=rf"features of a clip are 4 x {width} here, and these are 4 x {width + 1}"):
        classifier.set_class("n", torch.randn(1, 4, width + 1))
    classifier.set_class("n", torch.randn(2, 4, width))
    with pytest.raises(D2STError, match=rf"features of a clip are 4 x {width} here, and these are 3 x {width}"):
        classifier.set_class("m", torch.randn(2, 3, width))
    with pytest.raises(D2STError, match="features of 2 clips and tokens of 1"):
        classifier.set_class("m", torch.randn(2, 4, width), torch.randn(1, 4, width))
    assert classifier.classes == ("n",)


def test_adapters_that_are_random_are_told_and_answer_alike(small, support, tmp_path, caplog, capsys) -> None:
    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), tmp_path / "vit.safetensors")
    own = {"backbone": "test_vit", "weights": str(tmp_path / "vit.safetensors"), "image_size": None}
    asked = dataclasses.replace(config(small, support, query=str(small / "data/pink/4.mp4"), format="jsonl"), **own)
    asked = dataclasses.replace(asked, adapter=d2st.LSNConfig(width=16))
    answers = [json.dumps(predict(asked)["predictions"]) for _ in range(2)]
    assert answers[0] == answers[1]
    assert "The adapter 'lsn width=16' is untrained: features come from random weights" in caplog.text
    caplog.clear()
    predict(dataclasses.replace(asked, adapter=d2st.STConfig()))
    assert "untrained" not in caplog.text
