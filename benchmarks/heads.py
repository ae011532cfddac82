"""What the matching heads cost: against loops, and over 10,000 evaluation episodes.

    python benchmarks/heads.py --heads trx otam --shots 1 5 --threads 2
    python benchmarks/heads.py --heads bi-mhm --head-options '{"shots": "joint", "tuples": 3}'

Part one takes an episode of the papers' size (5 classes, one query of each, 8 frames) forward, and forward and backward
with the gradients of features and weights, against the version in benchmarks/loops with the same weights. Runs
alternate, so that other load on the machine hits both; the figure is the median ratio loop / ours, best read in CPU
seconds. Memory is what autograd keeps for the backward pass, without the weights. Part two scores episodes on cached
random features of 2,400 clips, as ``d2st eval`` does: every clip is embedded once. Weights are random: they do not
matter for time.
"""

import argparse
import importlib
import json
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import d2st
from d2st.data.episodes import EpisodeSampler
from d2st.evaluation.episodes import score
from d2st.features.encode import Features

WAY, GRID, CLIPS, CLASSES = 5, 7, 2400, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", nargs="+", default=loops())
    parser.add_argument("--head-options", type=json.loads, default={}, help="of every head, as JSON")
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--features", type=int, default=768)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--episodes", type=int, default=10_000, help="0 leaves part two out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.heads:
        torch.manual_seed(0)
        known = d2st.heads.options_of(name)
        width = {"features": options.features} if "features" in known else {}
        head = d2st.heads.build(name, **width, **options.head_options)
        head = head.to(options.device).eval()
        for shot in options.shots:
            result = {"head": name, "shot": shot}
            if name in loops():
                result |= against_loop(name, head, shot, options)
            if options.episodes and head.takes == "features" and not head.needs_text:
                result |= episodes(head, shot, options)
            print(json.dumps(result), flush=True)
    print(json.dumps(vars(options) | {"torch": torch.__version__}))


def loops() -> list[str]:
    """Heads that have a loop version, by their files."""
    files = (Path(__file__).parent / "loops").glob("[a-z]*.py")
    return sorted(file.stem.replace("_", "-") for file in files)


def against_loop(name: str, head: nn.Module, shot: int, options: argparse.Namespace) -> dict:
    loop = importlib.import_module(f"loops.{name.replace('-', '_')}").Loop(head).to(options.device).eval()
    shape = (options.frames, options.features, *(() if head.takes == "features" else (GRID, GRID)))
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(WAY).repeat_interleave(shot)[torch.randperm(WAY * shot, generator=rng)].to(options.device)
    support, query = (
        torch.randn(n, *shape, generator=rng).relu().to(options.device) for n in (WAY * shot, WAY)
    )  # as after a ReLU

    with torch.no_grad():
        ours, theirs = (compute(support, labels, query, WAY) for compute in (head, loop))
    off = ((ours - theirs).abs().max() / theirs.abs().max()).item()
    if off > 1e-4:
        raise SystemExit(f"{name}: loop and head disagree by {off:.1e} of the largest logit.")

    def forward(compute: nn.Module) -> None:
        with torch.no_grad():
            compute(support, labels, query, WAY)

    def step(compute: nn.Module) -> Tensor:
        compute.zero_grad()
        logits = compute(support.requires_grad_(), labels, query.requires_grad_(), WAY)
        nn.functional.cross_entropy(logits, torch.arange(WAY, device=options.device)).backward()

    result = {}
    for task in (forward, step):
        seconds = {which: [] for which in ("wall", "cpu")}
        for repeat in range(options.repeats + 1):
            pair = [measure(task, compute) for compute in (loop, head)]
            if repeat:  # the first is a warm-up
                for which, values in zip(seconds, zip(*pair, strict=True), strict=True):
                    seconds[which].append(values)
        for which, pairs in seconds.items():
            result[f"{task.__name__}_{which}_ratio"] = round(statistics.median(a / b for a, b in pairs), 2)
            result[f"{task.__name__}_{which}_ms"] = round(1e3 * min(b for _, b in pairs), 2)
    for which, compute in (("loop", loop), ("ours", head)):
        result[f"kept_{which}_mib"] = round(kept_for_backward(compute, support, labels, query) / 2**20, 1)
    return result


def measure(task, compute: nn.Module) -> tuple[float, float]:
    """Wall and CPU seconds of a run; several at once if one is short."""
    runs = 0
    start, used = time.perf_counter(), cpu_seconds()
    while runs == 0 or time.perf_counter() - start < 0.1:
        task(compute)
        runs += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / runs, (cpu_seconds() - used) / runs


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def kept_for_backward(compute: nn.Module, support: Tensor, labels: Tensor, query: Tensor) -> int:
    """Bytes of activations that autograd keeps; storages are counted once, weights and inputs not at all."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*compute.parameters(), support, query)}
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes(), storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = compute(support.requires_grad_(), labels, query.requires_grad_(), WAY)
    del logits
    return sum(size for size, _ in storages.values())


def episodes(head: nn.Module, shot: int, options: argparse.Namespace) -> dict:
    labels = np.repeat(np.arange(CLASSES), CLIPS // CLASSES)
    clips = torch.randn(CLIPS, 1, options.frames, options.features, generator=torch.Generator().manual_seed(0))
    start, used = time.perf_counter(), cpu_seconds()
    embedded = Features(clips, np.arange(CLIPS), []).embedded(head)
    between = time.perf_counter()
    score(embedded, EpisodeSampler(labels, WAY, shot, 1, 0), head, options.episodes, options.device)
    end = time.perf_counter()
    return {
        "embed_s": round(between - start, 2),
        "episodes_s": round(end - between, 2),
        "embed_and_episodes_cpu_s": round(cpu_seconds() - used, 2),
        "embedded_mib": round(embedded.nbytes / 2**20, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


if __name__ == "__main__":
    main()
