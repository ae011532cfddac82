"""Two real gloo processes, as torchrun starts them: the same results as one, and what happens when one is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small
import torch
from safetensors.torch import load_file

from d2st.utils.program import program

EPISODES = 16


def train(folder: Path, out: Path, processes: int, **more) -> subprocess.Popen:
    settings = {"way": 3, "queries": 2, "episodes": EPISODES, "episodes_per_step": 4, "class_loss": 0.5, "lr": 1e-3}
    settings |= {"validate_every": 8, "validation_episodes": 20, "checkpoint_minutes": 100.0, "out": str(out)}
    settings |= {"head": "hyrsm", "head_lr": 0.1}  # with parameters and drop-out of its own
    config = out.with_suffix(".yaml")
    config.write_text(json.dumps(small.options(folder, **settings | more)))
    return start("train", "--config", str(config), processes=processes)


def start(*arguments: str, processes: int = 2) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "d2st"]
    command = [sys.executable, *(torchrun if processes > 1 else ["-m", "d2st"]), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    return output


def close(one: Path, two: Path) -> None:
    one, two = load_file(one), load_file(two)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-5, msg=name)


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(train(small, out, 1))
    return out


def test_training_is_the_same(small, alone, tmp_path) -> None:
    """Weights, losses and validations of 16 episodes in steps of 4 do not depend on how many processes share them,
    and on what the first of them measures beside."""
    output = finish(train(small, tmp_path / "run", 2, diagnose_every=8))
    assert output.count("validation") == 2, f"the first process alone should tell of its two validations: {output}"
    for kind in ("adapter", "head"):
        close(*(run / "final" / f"{kind}_model.safetensors" for run in (alone, tmp_path / "run")))
    records = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (alone, tmp_path / "run")
    ]
    assert [record["episode"] for record in records[0]] == [record["episode"] for record in records[1]]
    for one, two in zip(*records, strict=True):
        assert one == pytest.approx({key: two[key] for key in one}, rel=1e-3, abs=1e-5)
    assert sum("gradient.points" in record for record in records[1]) == 2


def test_a_lost_process_ends_the_run_and_one_process_finishes_it(small, alone, tmp_path) -> None:
    """kill -9 of the second of two; the first saves the last whole step, from which a single process goes on."""
    run = tmp_path / "run"
    process = train(small, run, 2)
    deadline = time.monotonic() + 200
    while process.poll() is None and not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(second_process(process.pid), signal.SIGKILL)
    _, errors = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "lost another one" in errors and "start again to go on" in errors, errors[-3000:]
    saved = (run / "last.safetensors").exists()
    assert saved, "checkpoint_minutes is 100: only the rescue can have saved it"
    assert f"of {EPISODES}." in finish(train(small, run, 1))
    close(alone / "final" / "adapter_model.safetensors", run / "final" / "adapter_model.safetensors")


def test_a_process_that_waits_for_one_that_gave_up_says_so(monkeypatch, capsys) -> None:
    """The first one refuses the folder of the run while the others wait for it at a barrier."""

    def wait() -> int:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:25992.\nMore of it")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert program("d2st train", wait) == 2
    said = capsys.readouterr().err
    assert said.startswith("d2st train: Process 1 of 2 lost another one, which ended") and said.count("\n") == 1
    assert "--debug" not in said


def second_process(torchrun: int) -> int:
    """Process id of rank 1 among the children of torchrun."""
    for pid in Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes():
            return int(pid)
    raise AssertionError("torchrun has no second process")


def test_a_store_is_the_same(small, tmp_path) -> None:
    stores = [tmp_path / "one", tmp_path / "two"]
    for processes, store in enumerate(stores, 1):
        common = "--data", str(small / "data"), "--out", str(store), "--workers", "0"
        output = finish(start("prepare", *common, processes=processes))
        assert output.count("45 clips in") == 1
    one, two = (json.loads((store / "index.json").read_text()) for store in stores)
    assert one == two
    files = [sorted(file.relative_to(store) for file in (store / "clips").rglob("*.*")) for store in stores]
    assert files[0] == files[1] and len(files[0]) == 45
    for file in files[0]:
        one, two = (load_file(store / file) for store in stores)
        assert all(torch.equal(one[name], two[name]) for name in one | two)


def test_a_program_leaves_its_group(tmp_path) -> None:
    """A group that still runs while the interpreter ends can abort it, after everything was done."""
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    assert program("d2st", lambda: 0) == 0
    assert not torch.distributed.is_initialized()


def test_an_evaluation_is_the_same(small, alone, tmp_path) -> None:
    """The same clips and episodes; a clip that cannot be read is left out whoever meets it."""
    data = tmp_path / "data"
    shutil.copytree(small / "data", data)
    (data / "sand" / "3.mp4").write_bytes(b"no video")
    common = "--data", str(data), "--split", str(small / "split.yaml"), "--weights", str(small / "weights.safetensors")
    common += "--adapter", str(alone / "final"), "--way", "3", "--shot", "1,2", "--episodes", "200"
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        output = finish(start("eval", *common, "--out", str(out), processes=processes))
        assert output.count("Written to") == 1
        assert len(list(out.glob("features-*.safetensors"))) == 1
        results.append(json.loads((out / "eval.json").read_text()))
    one, two = results
    assert one["results"] == two["results"] and one["clips"] == two["clips"] == 14
    assert one["bad_clips"] == two["bad_clips"] and "3.mp4" in one["bad_clips"][0]["id"]
    again = finish(start("eval", *common, "--out", str(tmp_path / "2")))  # from the cache, found by the first
    assert "Written to" in again and json.loads((tmp_path / "2" / "eval.json").read_text())["results"] == two["results"]


def test_a_classifier_is_the_same(small, tmp_path) -> None:
    """Weights after steps of 4 batches, and an evaluation with a broken clip, do not depend on the processes."""
    data = shutil.copytree(small / "data", tmp_path / "data")
    (data / "sand" / "3.mp4").write_bytes(b"no video")
    (tmp_path / "split.yaml").write_text("train: 60%\nval: 40%\n")
    model = {"backbone": "test_resnet", "weights": str(small / "weights.safetensors"), "image_size": 32, "frames": 4}
    step = {"epochs": 1, "warmup_epochs": 0.5, "clips_per_step": 8, "batch_size": 2, "mixup": 0.8, "rand_augment": 1}
    common = {"head": "linear", "data": str(data), "split": str(tmp_path / "split.yaml"), "device": "cpu"}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(common | model | step | {"max_bad": 0.5}))
    results = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        output = finish(start("train", "--config", str(config), "--out", str(out), processes=processes))
        assert output.count("validation clips") == 1
        flags = ["--adapter", str(tmp_path / "1" / "final"), "--weights", model["weights"], "--out", str(out)]
        flags += [text for name in ("data", "split") for text in (f"--{name}", common[name])]
        finish(start("eval", *flags, processes=processes))
        results.append(json.loads((out / "eval.json").read_text()))
    for kind in ("adapter", "classifier"):
        close(*(tmp_path / run / "final" / f"{kind}_model.safetensors" for run in "12"))
    one, two = results
    for key in ("results", "per_class", "confused", "bad_clips"):
        assert one[key] == two[key], key


def test_a_command_that_is_not_shared_refuses_torchrun(tmp_path) -> None:
    process = start("learn", str(tmp_path), "--out", str(tmp_path / "out"))
    _, errors = process.communicate(timeout=300)
    assert process.returncode and "d2st learn works in one process, and torchrun started 2" in errors
    assert not (tmp_path / "out").exists()
