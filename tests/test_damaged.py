"""Damaged files of every kind that d2st writes: a sentence or a working object, and never another error."""

import pytest
import torch
from damage import json_texts, tensor_files

import d2st
from d2st import checkpoint, heads
from d2st.checkpoint import TrainState
from d2st.compare import collect
from d2st.errors import D2STError
from d2st.loss import EpisodicLoss
from d2st.reproduce.cells import Cell, Run
from d2st.reproduce.run import finished
from d2st.reproduce.table import problems_of, values_of
from d2st.runs import RunFolder


class Tally:
    """Counts what became of damaged files; anything but a sentence or an answer ends the test."""

    def __init__(self) -> None:
        self.told = self.taken = 0

    def __call__(self, use, *given):
        try:
            use(*given)
            self.taken += 1
        except D2STError as error:
            assert len(str(error)) < 2000, "a sentence, and not the file"
            self.told += 1


@pytest.fixture
def tally():
    tally = Tally()
    yield tally
    assert tally.told > tally.taken, "most damage is noticed"


@pytest.fixture(scope="module")
def encoder(small):
    weights = small / "weights.safetensors"
    return d2st.adapt("test_resnet", d2st.STConfig(), frames=4, pretrained=weights, image_size=32)


def test_states_of_runs(encoder, tmp_path, tally):
    model = EpisodicLoss(encoder, heads.build("trx", features=encoder.num_features, cardinalities=(2,)), 2, 1, 1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.0)
    model(torch.rand(4, 4, 3, 32, 32), torch.tensor([0, 1]))[0].backward()
    optimizer.step()
    whole, path = tmp_path / "whole.safetensors", tmp_path / "last.safetensors"
    state = TrainState(8, 0.5, 4, 2.0, {"a": "gone"}, "abc")
    checkpoint.save(whole, state, model, optimizer, {"scale": 2.0})
    assert checkpoint.load(whole, model, optimizer) == (state, {"scale": 2.0})
    for _ in tensor_files(whole, path, 150):
        tally(checkpoint.load, path, model, optimizer)


def test_folders_of_runs(tmp_path, tally):
    config = {"lr": 0.1, "adapter": {"name": "d2st", "groups": [4, 4]}, "out": "a"}
    for content in json_texts(config, 60):
        folder = RunFolder(tmp_path)
        folder.config.write_bytes(content)
        folder.metrics.write_bytes(content + b"\n" + content)
        tally(folder.open, config)
        folder.trim("episode", 8)
        folder.lock.close()


def test_results(tmp_path, tally):
    result = {
        "head": "bi-mhm",
        "way": 5,
        "shot": 1,
        "episodes": 9,
        "accuracy": 0.5,
        "interval": 0.1,
        "per_class": {"a": 1},
    }
    about = {"backbone": "vit", "part": "test", "adapter": "d2st", "trainable_parameters": 100, "bad_clips": []}
    whole = {"config": {"data": "a/b", "seed": 0}, "results": [result], "problems": ["x"], "clips": 9} | about
    folder, run = tmp_path / "run" / "test", Run("run", None, ("--help",), 0)
    folder.mkdir(parents=True)
    for content in json_texts(whole, 150):
        (folder / "eval.json").write_bytes(content)
        tally(collect, [folder])
        tally(values_of, Cell("4", "a", "b", 1.0, setting={"shot": 1}), [run], tmp_path)
        tally(problems_of, [run], tmp_path)
    for content in json_texts(["d2st --help", "d2st eval --data 'a b'"], 50):
        (tmp_path / "run" / "commands.json").write_bytes(content)
        tally(finished, run, tmp_path)
