"""``d2st export``: files that give PyTorch's features, say how to be run, and are kept only then."""

import contextlib
import io
import json
import runpy
import subprocess
import sys
from pathlib import Path

import clips
import families
import onnxruntime
import pytest
import small
import torch

import d2st
from d2st import export as translate
from d2st import heads
from d2st.classifiers.few_shot import FewShotClassifier
from d2st.commands import cli
from d2st.data.walk import EXTENSIONS

EXAMPLES = Path(__file__).parent.parent / "examples"
SYSTEMS = {"d2st": d2st.D2STConfig(), "d2st-local": d2st.D2STLocalConfig(), "st": d2st.STConfig()}


def encoder_of(system):
    torch.manual_seed(0)
    backbone = families.VisionTransformer(**families.VIT | {"depth": 1})
    encoder = d2st.adapt(backbone, SYSTEMS[system], frames=4)
    families.move(encoder)
    return encoder


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """Folder of a classifier with 2, 3 and 1 examples of three classes, on an adapter that does something."""
    torch.manual_seed(0)
    encoder = d2st.adapt(
        "test_resnet",
        d2st.D2STConfig(positions=(3,)),
        frames=4,
        pretrained=small / "weights.safetensors",
        image_size=32,
    )
    families.move(encoder)
    shots = {"pink": 2, "sand": 3, "teal": 1}
    clips = {name: [small / "data" / name / f"{n}.mp4" for n in range(k)] for name, k in shots.items()}
    return FewShotClassifier(encoder).fit(clips).save_pretrained(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def exported(small, trained):
    """Folder that ``d2st export`` wrote, and what it said."""
    weights, said = str(small / "weights.safetensors"), io.StringIO()
    with contextlib.redirect_stdout(said):
        code = cli.main(["export", "--classifier", str(trained), "--weights", weights, "--out", str(trained / "out")])
    assert code == 0
    return trained / "out", said.getvalue()


@pytest.mark.parametrize("system", SYSTEMS)
def test_onnxruntime_agrees_with_pytorch_on_a_vit(system, tmp_path):
    encoder = encoder_of(system)
    result = translate.export_encoder(encoder, tmp_path / "encoder.onnx")
    assert result["check"]["relative_error"] <= 1e-4 and result["check"]["batches"] == [1, 3]
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["d2st"]) == result["encoder"]
    assert [session.get_inputs()[0].name, *session.get_inputs()[0].shape] == ["video", "batch", 4, 3, 32, 32]
    assert [session.get_outputs()[0].name, *session.get_outputs()[0].shape][:3] == ["features", "batch", 4]
    video = families.clips(batch=2, frames=4, seed=7)
    with torch.no_grad():
        expected = encoder(video)
    given = torch.from_numpy(session.run(None, {"video": video.numpy()})[0])
    assert (given - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_torch_export_keeps_the_batch_open_and_the_description(tmp_path):
    encoder = encoder_of("st")
    result = translate.export_encoder(encoder, tmp_path / "encoder.pt2")
    files = {"d2st.json": ""}
    program = torch.export.load(tmp_path / "encoder.pt2", extra_files=files).module()
    assert json.loads(files["d2st.json"]) == result["encoder"]
    with torch.no_grad():
        for batch in (1, 5):
            video = families.clips(batch=batch, frames=4)
            torch.testing.assert_close(program(video), encoder(video), rtol=1e-4, atol=1e-5)


def test_an_encoder_in_the_middle_of_its_training_is_left_as_it_is(tmp_path):
    """BatchNorms of DST-Adapter would count the blank and random clips that it is described and checked with."""
    encoder = d2st.adapt("d2st_stills", "dst", frames=4, pretrained=False).train()
    modes = {name: module.training for name, module in encoder.named_modules()}
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    translate.export_encoder(encoder, tmp_path / "encoder.pt2")
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert {name: module.training for name, module in encoder.named_modules()} == modes


def without_torch(exported, *arguments):
    """What the example prints on a machine that has neither PyTorch nor d2st."""
    arguments = [EXAMPLES / "onnx_predict.py", exported / "encoder.onnx", "--json", *arguments]
    code = (
        "import runpy, sys; sys.modules |= dict.fromkeys(['torch', 'd2st', 'torchvision', 'timm']); "
        f"sys.argv = {[str(a) for a in arguments]!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def answers_without_torch(exported, *arguments):
    done = without_torch(exported, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_classifier_answers_the_same_without_pytorch(small, trained, exported):
    (out, said), weights = exported, small / "weights.safetensors"
    assert "agrees with PyTorch" in said and "relative error" in said
    assert sorted(p.name for p in out.iterdir()) == ["encoder.onnx", "encoder.onnx.json", "support.npz"]
    saved = json.loads((out / "encoder.onnx.json").read_text())
    assert saved["encoder"]["classes"] == ["pink", "sand", "teal"] and saved["encoder"]["head"]["name"] == "bi-mhm"
    assert saved["check"]["relative_error"] <= 1e-4 and saved["config"]["classifier"] == str(trained)
    classifier = FewShotClassifier.from_pretrained(trained, weights=weights)
    query = small / "data" / "sand"
    expected = [classifier.predict(clip).logits for clip in sorted(query.iterdir())]
    for answer, logits in zip(answers_without_torch(out, "--query", query), expected, strict=True):
        assert answer["logits"] == pytest.approx(logits, abs=1e-4)


@pytest.mark.parametrize("head", ["ridge", "ridge in order", "otam"])
def test_the_head_of_the_classifier_answers_without_pytorch(small, trained, tmp_path, head):
    """``d2st learn`` keeps such classifiers; a head that the example does not know is refused and not replaced."""
    weights, name = small / "weights.safetensors", head.split()[0]
    before = FewShotClassifier.from_pretrained(trained, weights=weights)
    options = {"order": "order" in head, "penalty": 0.01} if name == "ridge" else {}
    classifier = FewShotClassifier(before.encoder, heads.build(name, **options))
    for label, clips_of in before.support.items():
        classifier.set_class(label, clips_of.frames)
    classifier.save_pretrained(tmp_path / "classifier")
    arguments = [
        "--classifier",
        str(tmp_path / "classifier"),
        "--weights",
        str(weights),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(["export", *arguments]) == 0
    query = small / "data" / "sand"
    if head == "otam":
        assert "not by {'name': 'otam'" in without_torch(tmp_path / "out", "--query", query).stderr
        return
    expected = [classifier.predict(clip).logits for clip in sorted(query.iterdir())]
    for answer, logits in zip(answers_without_torch(tmp_path / "out", "--query", query), expected, strict=True):
        assert answer["logits"] == pytest.approx(logits, abs=1e-4)


def test_clips_of_any_size_and_turn_answer_the_same_without_pytorch(small, trained, exported, tmp_path):
    query = tmp_path / "query"
    for label in (0, 1):
        (tmp_path / "support" / f"class {label}").mkdir(parents=True)
        for n in (0, 1):
            file = tmp_path / "support" / f"class {label}" / f"{n}.mp4"
            clips.write(file, frames=9 + n, first=20 * label + 5 * n, size=(100, 70))
    query.mkdir()
    clips.write(query / "long.mp4", frames=40, size=(64, 128))
    clips.turn(clips.write(query / "phone.mp4", first=22), 0, 1, -1, 0)
    classifier = FewShotClassifier.from_pretrained(trained, weights=small / "weights.safetensors")
    classifier.fit(tmp_path / "support")
    answers = answers_without_torch(exported[0], "--support", tmp_path / "support", "--query", query)
    for answer, clip in zip(answers, sorted(query.iterdir()), strict=True):
        assert answer["logits"] == pytest.approx(classifier.predict(clip).logits, rel=2e-3)


def test_the_example_takes_the_clips_that_d2st_takes(tmp_path):
    for name in ("a.MPG", "b.mp4", "._b.mp4", "notes.txt"):
        (tmp_path / name).touch()
    script = runpy.run_path(str(EXAMPLES / "onnx_predict.py"))
    assert script["EXTENSIONS"] == EXTENSIONS
    assert [clip.name for clip in script["clips"](tmp_path)] == ["a.MPG", "b.mp4"]


def test_examples_that_are_not_there_are_told_of(exported, tmp_path):
    """A class without clips would have NaN for its logit, and with it for every share."""
    (tmp_path / "support" / "empty").mkdir(parents=True)
    for name in ("class 0", "zero"):
        (tmp_path / "support" / name).mkdir()
        file = clips.write(tmp_path / "support" / name / "0.mp4", frames=9)
    done = without_torch(exported[0], "--support", tmp_path / "support", "--query", file)
    assert done.returncode == 1 and "must hold a folder of clips for each class: ['empty']" in done.stderr
    (tmp_path / "support" / "empty").rmdir()
    done = without_torch(exported[0], "--support", tmp_path / "support", "--query", tmp_path / "nowhere")
    assert done.returncode == 1 and "nowhere' is no video file and no folder that holds some" in done.stderr
    done = without_torch(exported[0], "--support", tmp_path / "support", "--query", tmp_path / "support")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2  # in the folders of a folder
    (tmp_path / "encoder.onnx").write_bytes((exported[0] / "encoder.onnx").read_bytes())
    done = without_torch(tmp_path, "--query", file)
    assert done.returncode == 1 and "give examples by --support" in done.stderr and "Traceback" not in done.stderr


def test_weights_beside_the_file_count_in_its_size(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(translate, "PROTOBUF_BYTES", 0)
    assert cli.main(["export", *flags(small), "--out", str(tmp_path)]) == 0
    sizes = [(tmp_path / name).stat().st_size for name in ("encoder.onnx", "encoder.onnx.data")]
    assert f", {sum(sizes) / 1e6:.1f} MB" in capsys.readouterr().out and sizes[1] > 1e6
    onnxruntime.InferenceSession(tmp_path / "encoder.onnx")


def test_a_file_that_computes_something_else_is_not_kept(small, tmp_path, monkeypatch, capsys):
    arguments = ["export", *flags(small), "--format", "pt2", "--out", str(tmp_path)]
    (tmp_path / "encoder.pt2").write_text("of an earlier export")
    for error in (2e-4, float("nan")):
        monkeypatch.setattr(translate, "relative_error", lambda *_, error=error: error)
        assert cli.main(arguments) == 2
        assert f"a relative error of {error:.1e}, where 1e-04 is allowed" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.pt2"]
    assert (tmp_path / "encoder.pt2").read_text() == "of an earlier export"


def test_files_in_a_folder_are_of_one_export(small, trained, tmp_path, monkeypatch, capsys):
    def export_encoder(encoder, file, about, seed):
        file.write_text("an encoder")
        return {"encoder": about, "check": {"relative_error": 0.0, "batches": [1], "run_by": "nobody"}}

    monkeypatch.setattr("d2st.commands.export.export_encoder", export_encoder)
    monkeypatch.setattr("d2st.commands.export._tell", lambda *_: None)
    out = ["--out", str(tmp_path)]
    weights = str(small / "weights.safetensors")
    assert cli.main(["export", "--classifier", str(trained), "--weights", weights, *out]) == 0
    (tmp_path / "encoder.onnx.data").touch()
    (tmp_path / "mine.txt").touch()
    assert cli.main(["export", *flags(small), "--format", "pt2", *out]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["encoder.pt2", "encoder.pt2.json", "mine.txt"]
    assert "encoder.onnx of an earlier export was removed" in capsys.readouterr().err


def flags(folder):
    own = small.options(folder)
    return [f"--{name.replace('_', '-')}={own[name]}" for name in ("backbone", "weights", "image_size", "frames")]


@pytest.mark.parametrize("change", ["half", "double", "half_weights", "half_weights float"])
def test_an_encoder_in_another_precision_is_refused(tmp_path, change):
    """A .pt2 file of it gave float16 or float64 where its description says float32."""
    encoder = encoder_of("st")
    for name in change.split():
        getattr(encoder, name)()
    with pytest.raises(d2st.D2STError, match=r"computes in float32 and .* Give encoder\.float\(\)\.cpu\(\)"):
        translate.export_encoder(encoder, tmp_path / "encoder.pt2")
    with pytest.raises(d2st.D2STError, match=r"torch\.float32 on meta"):
        translate.export_encoder(encoder_of("st").to("meta"), tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())


def test_refusals_are_sentences(small, trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert cli.main(["export", *flags(small), "--out", str(tmp_path)]) == 2
    assert 'onnxscript, which is not installed: pip install "d2st[export]"' in capsys.readouterr().err
    pt2 = ["export", "--format", "pt2", "--out", str(tmp_path)]
    assert cli.main([*pt2, "--classifier", str(trained), "--frames", "8"]) == 2
    assert "its own way of reading clips: leave out --frames." in capsys.readouterr().err
    with pytest.raises(d2st.D2STError, match=r"'encoder\.bin' must end in \.onnx or \.pt2"):
        translate.export_encoder(encoder_of("st"), tmp_path / "encoder.bin")
    monkeypatch.setattr(torch.export, "export", lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no such thing")))
    with pytest.raises(d2st.D2STError, match=r"cannot translate STConfig on VisionTransformer to \.pt2: no such thing"):
        translate.export_encoder(encoder_of("st"), tmp_path / "encoder.pt2")
    assert not list(tmp_path.iterdir())
