"""A run goes on with the clips and weights that it began with, wherever they lie by then, and with no others."""

import json
import shutil
import signal

import pytest
import small as small_options
import torch
import yaml
from safetensors.torch import load_file, save_file

import d2st
from d2st.commands.train import TrainConfig, train
from d2st.data.options import TextConfig
from d2st.errors import D2STError
from d2st.training.material import digest_files
from d2st.training.trainer import Trainer


def config(folder, out, **more) -> TrainConfig:
    settings = {"way": 2, "shot": 1, "queries": 1, "episodes": 8, "episodes_per_step": 4, "validate_every": 4}
    return TrainConfig(**small_options.options(folder, out=str(out), **settings | {"validation_episodes": 5} | more))


@pytest.fixture
def begun(small, tmp_path, monkeypatch):
    """Folder with data, split and weights of its own, and ``run``, which was stopped after its first step."""
    for name in ("split.yaml", "weights.safetensors"):
        shutil.copy(small / name, tmp_path / name)
    shutil.copytree(small / "data", tmp_path / "data")
    forward = Trainer.forward
    monkeypatch.setattr(Trainer, "forward", lambda *a: signal.raise_signal(signal.SIGTERM) or forward(*a))
    with pytest.raises(SystemExit):
        train(config(tmp_path, tmp_path / "run"))
    monkeypatch.undo()
    return tmp_path


def test_what_moved_is_the_same(small, begun, capsys) -> None:
    there = begun / "elsewhere"
    there.mkdir()
    for name in ("data", "split.yaml", "weights.safetensors"):
        shutil.move(begun / name, there / name)
    (there / "split.yaml").rename(there / "classes.yaml")
    (there / "weights.safetensors").rename(there / "backbone.safetensors")
    moved = {"split": str(there / "classes.yaml"), "weights": str(there / "backbone.safetensors")}
    train(config(there, begun / "run", **moved))
    assert "goes on from episode 4 of 8" in capsys.readouterr().out
    train(config(small, begun / "whole"))
    one, two = (load_file(begun / run / "final" / "adapter_model.safetensors") for run in ("run", "whole"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_what_changed_is_named(begun) -> None:
    def refused(said: str, **more) -> None:
        with pytest.raises(D2STError, match=rf"not those that the run in .* began with: {said}"):
            train(config(begun, begun / "run", **more))

    data, split = begun / "data", begun / "split.yaml"
    shutil.copy(data / "red" / "0.mp4", data / "red" / "7.mp4")
    refused(r"its training clips were others \(the class 'red' had 5 clips and has 6\)")
    (data / "red" / "7.mp4").unlink()
    (data / "blue" / "0.mp4").rename(data / "blue" / "00.mp4")
    refused(r"its training clips were others \(clips of the class 'blue' had other names\)")
    (data / "blue" / "00.mp4").rename(data / "blue" / "0.mp4")
    with (data / "cyan" / "0.mp4").open("ab") as file:
        file.write(b"\0")
    refused(r"its validation clips were others \(clips of the class 'cyan' had other sizes in bytes\)")
    (begun / "run" / "bad_clips.json").write_text(json.dumps([{"id": "cyan/0.mp4", "reason": "cut short"}]))
    train(config(begun, begun / "run"))  # it could not be read before, and was repaired
    content = yaml.safe_load(split.read_text())
    content["train"].remove("red")
    split.write_text(yaml.safe_dump(content))
    refused(r"its training clips were others \(the classes 'red' are in one of them alone\)")
    split.write_text(yaml.safe_dump(content | {"train": [*content["train"], "red"]}))
    weights = load_file(begun / "weights.safetensors")
    save_file(weights | {"conv1.0.weight": weights["conv1.0.weight"] + 1e-3}, begun / "other.safetensors")
    refused("its backbone had other weights", weights=str(begun / "other.safetensors"))
    (begun / "run" / "material.json").write_text('{"format": 1, "reading": {}, "backbone": "", "clips": 3}')
    with pytest.raises(D2STError, match=r"material.json"):
        train(config(begun, begun / "run"))
    train(config(begun, begun / "run", overwrite=True))


def test_runs_from_before_the_record_go_on_where_nothing_moved(begun, capsys) -> None:
    (begun / "run" / "material.json").unlink()
    shutil.copytree(begun / "data", begun / "moved")
    with pytest.raises(D2STError, match="another configuration: data is"):
        train(config(begun, begun / "run", data=str(begun / "moved")))
    train(config(begun, begun / "run"))
    assert "goes on from episode 4 of 8" in capsys.readouterr().out
    train(config(begun, begun / "run", data=str(begun / "moved")))  # now there is a record


def test_another_saved_adapter_under_the_same_name_is_refused(small, tmp_path, monkeypatch) -> None:
    saved = tmp_path / "saved"

    def save(activation: str) -> None:
        torch.manual_seed(0)
        options = small_options.options(small)
        backbone, weights, size = options["backbone"], options["weights"], options["image_size"]
        system = d2st.VanillaConfig(activation=activation)
        d2st.adapt(backbone, system, frames=4, pretrained=weights, image_size=size).save_pretrained(saved)

    save("relu")
    asked = config(small, tmp_path / "run", adapter_path=str(saved))
    forward = Trainer.forward
    monkeypatch.setattr(Trainer, "forward", lambda *a: signal.raise_signal(signal.SIGTERM) or forward(*a))
    with pytest.raises(SystemExit):
        train(asked)
    monkeypatch.undo()
    save("gelu")
    with pytest.raises(D2STError, match=r"the file of its adapter, adapter_config.json was another"):
        train(asked)
    save("relu")
    train(asked)


def test_files_that_a_training_begins_with_are_known_by_their_content(tmp_path) -> None:
    names = tmp_path / "names.yaml"
    names.write_text("wave: a person waves")
    text = TextConfig("small", names=str(names), templates="photo")
    first = digest_files(None, text)
    assert list(first) == ["text, names"]
    names.write_text("wave: a hand")
    assert digest_files(None, text) != first
    assert not digest_files(None, TextConfig(templates="a video of {}, " + 30 * "told at length, "))
    assert digest_files(None, None) == digest_files(None, TextConfig()) == {}


def test_only_where_there_is_no_validation_part_is_none(small, tmp_path, capsys) -> None:
    split = yaml.safe_load((small / "split.yaml").read_text())
    del split["val"]
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(split))
    train(config(small, tmp_path / "none", split=str(tmp_path / "none.yaml")))
    assert "No validation, the last adapter will be the best" in capsys.readouterr().out
    wrong = {
        "cyam": r"names 'cyam' and the data has no such class; did you mean",
        "alone": r"has only the class cyan.*validate_every 0",
        "gone": r"Class .cyan. of part .val. has no clips in the data",
    }
    for name, said in wrong.items():
        file = tmp_path / f"{name}.yaml"
        if name == "gone":
            lines = {part: [f"{c}/0.mp4 {c}\n" for c in names] for part, names in split.items()}
            for part, own in (lines | {"val": ["cyan/gone.mp4 cyan\n"]}).items():
                (tmp_path / f"{part}.txt").write_text("".join(own))
            file.write_text(yaml.safe_dump({part: f"{part}.txt" for part in ("train", "val", "test")}))
        else:
            val = ["cyam", "grey"] if name == "cyam" else ["cyan"]
            file.write_text(yaml.safe_dump(split | {"val": val}))
        with pytest.raises(D2STError, match=said):
            train(config(small, tmp_path / "wrong", split=str(file), shot=1))
        assert not (tmp_path / "wrong").exists()
