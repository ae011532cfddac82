"""``d2st inspect`` from flags to its file, and what it reads from the metrics of a run."""

import json
import shutil

import pytest
import torch

import d2st
from d2st.backbones.build import build
from d2st.commands import cli
from d2st.data.clip_reading import ClipReading
from d2st.data.datasets import open_dataset
from d2st.data.rendered import MOTIONS, RenderConfig, render_clip, write_clip
from d2st.training.metrics import gradient_norms, left_chance, read_steps
from d2st.visualize.diagnosis import diagnose, spread_clips


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Rendered clips ``clips/<motion>/<n>.mp4`` of three motions and a short training run on them in ``run``."""
    folder = tmp_path_factory.mktemp("inspect")
    for motion in MOTIONS[:3]:
        (folder / "clips" / motion.name).mkdir(parents=True)
        for number in range(2):
            frames = render_clip(motion, number, RenderConfig())
            write_clip(folder / "clips" / motion.name / f"{number}.mp4", frames)
    model = ["--backbone", "d2st_stills", "--frames", "4", "--adapter", "d2st", "--adapter.positions", "[2,3]"]
    model += ["--adapter.position-bias", "staggered", "--adapter.groups", "2"]
    length = ["--way", "2", "--episodes", "8", "--episodes-per-step", "2", "--validate-every", "0", "--lr", "0.01"]
    out = ["--data", folder / "clips", "--out", folder / "run", "--device", "cpu"]
    assert cli.main(["train", *map(str, [*model, *length, *out])]) == 0
    return folder


def test_a_run_is_inspected_beside_an_untrained_adapter(folder, tmp_path, capsys) -> None:
    clips = folder / "clips"
    flags = ["--data", clips, "--clips", "3", "--out", tmp_path, "--device", "cpu"]
    assert cli.main(["inspect", str(folder / "run"), *map(str, flags)]) == 0
    result = json.loads((tmp_path / "inspect.json").read_text())
    assert result["command"] and result["versions"]["torch"] and result["config"]["clips"] == 3
    assert (result["clips"], result["unreadable"]) == (3, [])

    trained = d2st.load(folder / "run" / "best")
    backbone = build("d2st_stills")
    torch.manual_seed(0)
    untrained = d2st.adapt(backbone, trained.config, frames=4)
    for name, encoder in (("trained", trained), ("untrained", untrained)):
        encoder.reading = trained.reading
        expected = diagnose(encoder, spread_clips(encoder, open_dataset(clips), 3))
        assert len(expected) == len(result["pathways"]) == 4
        for entry, figures in zip(result["pathways"], expected, strict=True):
            assert (entry["site"], entry["pathway"]) == (figures.site, figures.pathway)
            for key in ("outside", "entropy", "saturated", "moved", "varied"):
                assert entry[name][key] == pytest.approx(getattr(figures, key), abs=1e-6), key
            assert entry[name]["shift"] == [pytest.approx(pair) for pair in figures.shift]
    first = result["pathways"][0]
    assert first["trained"]["entropy"] != first["untrained"]["entropy"]

    run = result["run"]
    steps = read_steps(folder / "run" / "metrics.jsonl")
    assert run["chance"] == 0.5 and run["done"] == 8 and run["left_chance"] is None
    assert run["gradient_norms"] == {"all": [step["gradient_norm"] for step in steps]}
    printed = capsys.readouterr().out
    assert "layer3_0" in printed and "shift t" in printed and f"{100 * first['trained']['outside']:.0f} (" in printed
    assert "left chance (50 %) cannot be told before episode 50" in printed and "gradient norm" in printed


def test_an_adapter_alone_has_no_training_to_tell_of(folder, capsys) -> None:
    broken = folder / "clips" / MOTIONS[0].name / "9.mp4"
    broken.write_bytes(b"no video")
    flags = ["--data", str(folder / "clips"), "--device", "cpu"]
    assert cli.main(["inspect", "--adapter", str(folder / "run" / "final"), *flags]) == 0
    broken.unlink()
    printed = capsys.readouterr()
    assert "chance" not in printed.out and "clips: 6." in printed.out
    assert printed.err.count("Passed over") == 1


def test_the_untrained_adapter_sees_the_clips_of_the_trained_one(folder, tmp_path) -> None:
    """It is laid out as the trained one is, which was then trained on more frames, normalized in another way."""
    config, models = d2st.D2STConfig(positions=(3,), groups=2), []
    for _ in range(2):
        backbone = build("d2st_stills")
        torch.manual_seed(0)
        models.append(d2st.adapt(backbone, config, frames=4))
    trained, untrained = models
    trained.lay_out(ClipReading(8))
    trained.mean = (0.3, 0.5, 0.7)
    trained.backbone_name, trained.weights_source = "d2st_stills", True
    trained.save_pretrained(tmp_path / "adapter")
    expected = diagnose(untrained, spread_clips(trained, open_dataset(folder / "clips"), 3))
    flags = ["--data", folder / "clips", "--clips", "3", "--out", tmp_path, "--device", "cpu", "--precision", "fp32"]
    assert cli.main(["inspect", str(tmp_path / "adapter"), *map(str, flags)]) == 0
    found = json.loads((tmp_path / "inspect.json").read_text())["pathways"]
    for entry, figures in zip(found, expected, strict=True):
        assert entry["volume"] == [8, 4, 4] and entry["trained"] == entry["untrained"]
        assert entry["untrained"]["moved"] == pytest.approx(figures.moved)


def test_an_adapter_without_deformable_attention_is_told_of(folder, tmp_path, capsys) -> None:
    d2st.adapt("d2st_stills", d2st.STConfig(), frames=4).save_pretrained(tmp_path)
    assert cli.main(["inspect", str(tmp_path), "--data", str(folder / "clips"), "--device", "cpu"]) == 0
    assert "The adapter 'st' has no deformable attention" in capsys.readouterr().out


def test_clips_of_a_full_shot_part_are_as_good_as_others(folder, tmp_path, capsys) -> None:
    for part, number in (("train", 0), ("val", 1)):
        for motion in MOTIONS[:3]:
            there = tmp_path / "parts" / part / motion.name
            there.mkdir(parents=True)
            shutil.copy(folder / "clips" / motion.name / f"{number}.mp4", there)
    flags = ["--data", str(tmp_path / "parts"), "--part", "val", "--device", "cpu"]
    assert cli.main(["inspect", "--adapter", str(folder / "run" / "final"), *flags]) == 0
    assert "clips: 3." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "words"),
    [((), "holds neither an adapter"), (("config.json",), "has no adapter in best yet"), (None, "nowhere")],
)
def test_a_folder_of_something_else_is_refused(folder, tmp_path, capsys, files, words) -> None:
    for file in files or ():
        (tmp_path / file).write_text("{}")
    path = tmp_path if files is not None else tmp_path / "nowhere"
    assert cli.main(["inspect", str(path), "--data", str(folder / "clips")]) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def steps(accuracies, size: int) -> list[dict]:
    return [{"episode": size * (i + 1), "accuracy": accuracy} for i, accuracy in enumerate(accuracies)]


@pytest.mark.parametrize("size", [1, 2, 25])
def test_chance_is_left_where_the_last_fifty_are_above_it(size) -> None:
    chance = [0.2] * (100 // size)
    assert left_chance(steps(chance, size), 0.2) is None
    right = [1.0] * (100 // size)
    # 0.2 + 0.8 k / 50 is above 0.4 from k = 13 right ones on
    assert left_chance(steps(chance + right, size), 0.2) == 100 + -(-13 // size) * size
    assert left_chance(steps(right, size), 0.2) == 50, "not before there are fifty"
    assert left_chance(steps([1.0, 1.0], 1), 0.2) is None and left_chance([], 0.2) is None


def test_norms_are_means_over_the_quarters_of_a_run(tmp_path) -> None:
    lines = [{"episode": i + 1, "accuracy": 0.5, "gradient_norm": float(i)} for i in range(8)]
    lines[4]["gradient.points"] = 3.0
    lines[7]["gradient_norm"] = float("inf")
    text = "\n".join(json.dumps(line) for line in [*lines, {"episode": 8, "validation_accuracy": 0.5}])
    (tmp_path / "metrics.jsonl").write_text(text + '\n{"episode": 9, "accu')
    found = read_steps(tmp_path / "metrics.jsonl")
    assert [line["episode"] for line in found] == list(range(1, 8)), "damaged lines are passed over"
    assert gradient_norms(found) == {"all": [0.5, 2.5, 4.5, 6.0], "points": [None, None, 3.0, None]}
    assert gradient_norms([]) == {}
