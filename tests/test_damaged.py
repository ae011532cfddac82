"""Damaged files of every kind that d2st writes: a sentence or a working object, and never another error."""

import json
import resource
import shutil
import time

import pytest
import torch
from damage import json_texts, tensor_files

import d2st
from d2st import heads
from d2st.classifiers.few_shot import FewShotClassifier
from d2st.classifiers.rejector import RATES, CalibrationFile, Entry
from d2st.classifiers.video import VideoClassifier
from d2st.errors import D2STError
from d2st.features import cache
from d2st.features.fingerprint import Origin
from d2st.reproduce.cells import Cell, Run
from d2st.reproduce.run import finished
from d2st.reproduce.table import problems_of, values_of
from d2st.training import checkpoint
from d2st.training.checkpoint import TrainState
from d2st.training.episodic import EpisodicLoss
from d2st.training.run_folder import RunFolder
from d2st.utils import files
from d2st.visualize.charts import collect


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
        folder.lock.lock.release()


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


@pytest.fixture(scope="module")
def saved(small, encoder, tmp_path_factory):
    """An adapter with a head, a support set and a calibration; and beside it a classifier, and one by names."""
    folder = tmp_path_factory.mktemp("saved")
    head = heads.build("trx", features=encoder.num_features, cardinalities=(2,))
    classifier = FewShotClassifier(encoder, head)
    for name in ("red", "blue"):
        classifier.set_class(name, torch.rand(2, 4, encoder.num_features))
    classifier.save_pretrained(folder / "adapter")
    entry = Entry(5, 1, 10, 1.0, 0.0, 1.0, RATES)
    CalibrationFile(Origin.of(encoder, head), (entry,), classifier.reading).write(folder / "adapter")
    VideoClassifier(encoder, 3, ["a", "b", "c"]).save_pretrained(folder / "linear")
    projection = torch.nn.Linear(encoder.num_features, 6)
    named = VideoClassifier(encoder, torch.rand(3, 6), ["a", "b", "c"], projection=projection)
    named.text = heads.TextConfig("small/x", names="clean")
    named.save_pretrained(folder / "text")
    return folder


def damaged(saved, folder, file: str, count: int, seed: int = 0):
    """Copies of a saved folder in which one file is damaged."""
    shutil.copytree(saved, folder, dirs_exist_ok=True)
    whole, path = saved / file, folder / file
    if file.endswith("json"):
        for content in json_texts(json.loads(whole.read_text()), count, seed):
            path.write_bytes(content)
            yield
    else:
        yield from tensor_files(whole, path, count, seed)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_adapters(small, saved, tmp_path, tally, file):
    for _ in damaged(saved / "adapter", tmp_path, file, 100):
        tally(lambda: d2st.load(tmp_path, weights=small / "weights.safetensors"))


@pytest.mark.parametrize("file", ["head_config.json", "head_model.safetensors"])
def test_heads(saved, tmp_path, tally, file):
    for _ in damaged(saved / "adapter", tmp_path, file, 150):
        tally(lambda: heads.load(tmp_path))


@pytest.mark.parametrize("kind", ["linear", "text"])
@pytest.mark.parametrize("file", ["classifier_config.json", "classifier_model.safetensors"])
def test_classifiers(small, saved, tmp_path, tally, file, kind):
    for _ in damaged(saved / kind, tmp_path, file, 60):
        tally(lambda: VideoClassifier.from_pretrained(tmp_path, weights=small / "weights.safetensors"))


def test_calibrations(saved, tmp_path, tally):
    def use():
        found = CalibrationFile.read(tmp_path)
        assert found.nearest(2).at(0.05).confidence(torch.zeros(1), torch.zeros(1, 2)).isfinite().all()

    for _ in damaged(saved / "adapter", tmp_path, "calibration.json", 150):
        tally(use)


def test_support_sets(small, saved, tmp_path, tally):
    classifier = FewShotClassifier.from_pretrained(saved / "adapter", weights=small / "weights.safetensors")
    video = torch.rand(4, 3, 32, 32)

    def use():
        classifier.load_support(tmp_path / "support.safetensors")
        assert sum(classifier.predict(video).scores.values()) == pytest.approx(1)

    for _ in damaged(saved / "adapter", tmp_path, "support.safetensors", 150):
        tally(use)


def test_a_stranger_s_sizes_take_no_memory(small, saved, tmp_path):
    """Whatever sizes a config tells, it is refused before anything of them is built."""
    shutil.copytree(saved / "adapter", tmp_path, dirs_exist_ok=True)
    for file, place, key, value in [
        ("adapter_config.json", (), "frames", 10**9),
        ("adapter_config.json", (), "image_size", [10**9, 10**9]),
        ("adapter_config.json", ("adapter",), "ratio", 10**6),
        ("adapter_config.json", ("adapter",), "ratio", 1.0),
        ("adapter_config.json", ("adapter",), "kernel", [10**6, 1, 1]),
        ("head_config.json", ("head",), "width", 10**9),
        ("head_config.json", ("head",), "width", 16_000),
        ("head_config.json", ("head",), "features", 16_000),
        ("head_config.json", ("head",), "cardinalities", list(range(1, 5000))),
    ]:
        shutil.copy(saved / "adapter" / file, tmp_path)
        content = json.loads((tmp_path / file).read_text())
        holder = content
        for name in place:
            holder = holder[name]
        holder[key] = value
        (tmp_path / file).write_text(json.dumps(content))
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(D2STError):
            d2st.load(tmp_path, weights=small / "weights.safetensors")
            heads.load(tmp_path)
        assert time.process_time() - start < 2, (key, value)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, (key, value)  # kB
        shutil.copy(saved / "adapter" / file, tmp_path)


def test_feature_caches(tmp_path):
    """A damaged cache is no error: the clips are encoded again."""
    whole, path = tmp_path / "whole.safetensors", tmp_path / "features.safetensors"
    tensors = {"values": torch.rand(3, 1, 4, 8), "clips": torch.arange(3)}
    files.write_safetensors(whole, tensors, {"key": "abc", "bad": '[{"id": "a", "reason": "gone"}]'})
    assert cache._read(whole, "abc", []).clips.tolist() == [0, 1, 2]
    assert cache._read(path, "abc", []) is None
    for _ in tensor_files(whole, path, 100):
        found = cache._read(path, "abc", [])
        assert found is None or (found.values.shape[2:] == (4, 8) and found.values.isfinite().all())
