"""Real processes, killed at random moments."""

import json
import os
import random
import subprocess
import sys
import time

import small
import torch
from safetensors.torch import load_file

from d2st.commands.train import TrainConfig, train

SCRIPT = """
import json, sys, torch
from d2st.commands.train import TrainConfig, train
torch.set_num_threads(1)
train(TrainConfig(**json.loads(sys.argv[1])))
"""
EPISODES = 48


def settings(folder, out, **more) -> str:
    training = {"way": 3, "queries": 2, "episodes": EPISODES, "episodes_per_step": 4, "class_loss": 0.5, "jitter": 0.2}
    validation = {"validate_every": 12, "validation_episodes": 20}
    often = {"checkpoint_minutes": 0.0}
    head = {"head": "hyrsm", "head_lr": 0.1}  # with parameters and drop-out of its own
    return json.dumps(small.options(folder, out=str(out), **training | validation | often | head | more))


def start(*command: str) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]
    return output


def same(one, two) -> bool:
    one, two = load_file(one), load_file(two)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_killed_at_any_moment_the_weights_are_the_same(small, tmp_path) -> None:
    """kill -9 before, between and during steps, validations and checkpoints; then bit-identical to a run left alone."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the script: sums in another order would not be bit-identical
    train(TrainConfig(**json.loads(settings(small, whole))))
    torch.set_num_threads(threads)
    rng, kills = random.Random(), []
    for workers, part in enumerate((0.05, 0.35, 0.7)):
        process = start("-c", SCRIPT, settings(small, killed, workers=workers))
        while process.poll() is None and progress(killed) < part * EPISODES:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.communicate(timeout=100)  # the pipe ends with the last loader worker
        kills.append(progress(killed))
    assert sum(EPISODES > at > 0 for at in kills) >= 2, f"the run was killed at {kills}: too late to show anything"
    output = finish(start("-c", SCRIPT, settings(small, killed)))
    assert f"of {EPISODES}." in output, "the last start did not resume"
    saved = [f"{folder}/{kind}_model.safetensors" for folder in ("final", "best") for kind in ("adapter", "head")]
    for name in ("last.safetensors", *saved):
        assert same(whole / name, killed / name), (name, kills)
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()
    results = [json.loads((run / "train.json").read_text()) for run in (whole, killed)]
    assert len({(r["best_accuracy"], r["best_episode"]) for r in results}) == 1
    assert not list(killed.rglob(".*.tmp"))


def progress(run) -> int:
    """The last episode in the metrics of a run, 0 before the first."""
    try:
        return max(json.loads(line)["episode"] for line in (run / "metrics.jsonl").read_text().splitlines())
    except (OSError, ValueError):
        return 0
