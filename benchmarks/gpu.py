"""What one device does in a second: every adapter in every precision, and the released step beside ours.

    python benchmarks/gpu.py --minutes 8 --out runs/gpu
    python benchmarks/gpu.py --tiny --device cpu --out runs/gpu-tiny

Needs this checkout alone: weights are random, which changes no time, and clips are rendered. The most telling cells
come first; what the minutes do not reach is listed, and the same command goes on there. ``gpu.json`` is written whole
after each cell, ``gpu.md`` has the same as tables.

A *model* cell is an encoder on as many clips as an episode of 5-way 1-shot with one query a class has: 10. Forward is
without gradients; a step is forward and backward without an optimizer, and goes back to the input where nothing
trains. An *episode* cell is the step of such an episode with D²ST-Adapters and a head: ``ours`` as ``d2st train`` takes
it, ``released`` as the released code does, written down plainly: fp32, timm's own layers, an ordinary graph, support
and query clips in two forward passes, the head in loops (benchmarks/loops). A *loading* cell reads episodes from a
frame store, with the transforms of training.

fp32 is without TF32, tf32 with it, bf16 under autocast, ``bf16 compile`` with the blocks compiled (``--compile``).
Seconds are medians on the clock. Peak is the most memory that a step has at once above the weights.
"""

import argparse
import contextlib
import gc
import importlib
import io
import json
import os
import platform
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import d2st
from d2st.adapters import SYSTEMS
from d2st.backbones import build as backbones
from d2st.data import sampling
from d2st.data.datasets import ClipSet, open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.data.loaders import EpisodeClips
from d2st.data.options import StoreOptions
from d2st.data.preprocessing import Preprocessing
from d2st.data.rendered import RenderConfig, split, write_benchmark
from d2st.data.store_writer import write_store
from d2st.data.transforms import parts
from d2st.evaluation import cost
from d2st.layers.frozen import ordinary
from d2st.training.episodic import EpisodicLoss
from d2st.utils.device import autocast, pick_device
from d2st.utils.files import write_json
from d2st.utils.provenance import circumstances
from d2st.utils.report import Report

WAY = 5
CLIPS = 2 * WAY  # of an episode with one shot and one query a class
ADAPTERS = (  # each list with the most telling first
    *("d2st", "none", "d2st-local", "st", "dst", "aim", "dist"),
    *("dia", "lora", "zeroi2v", "lsn", "side4video"),
)
PRECISIONS = ("bf16", "fp32", "tf32", "bf16 compile")
HEADS = ("otam", "bi-mhm")
WORKERS = (4, 0, 8, 16, 2)
FAILURES = {"refused", "failed", "out of memory", "out of time"}


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        backbones: name in the tables -> timm's.
        image_size: side of a frame in pixels.
        frames: T.
        side: of the rendered clips in pixels.
        clips: rendered of a class.
        workers: that read clips.
        seconds: that a measurement takes at least, after its warm-up.
        compiler: backend of torch.compile.
    """

    backbones: dict[str, str]
    image_size: int = 224
    frames: int = 8
    side: int = 256
    clips: int = 6
    workers: tuple[int, ...] = WORKERS
    seconds: float = 1.0
    compiler: str = "inductor"


FULL = Scale(
    {
        "ViT-B/16": "vit_base_patch16_clip_quickgelu_224",
        "ResNet-50": "resnet50",
        "ViT-L/14": "vit_large_patch14_clip_quickgelu_224",
    }
)
TINY = Scale(
    {"ViT-B/16": "test_vit", "ResNet-50": "test_resnet", "ViT-L/14": "test_vit2"},
    image_size=64,
    frames=4,
    side=64,
    clips=2,
    workers=(0, 1),
    seconds=0.0,
    compiler="eager",
)


class OutOfTime(BaseException):
    """Say that the minutes are over; not an Exception, because compilers wrap those."""


def main(arguments: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="after which it ends, wherever it is")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--only", nargs="+", default=[""], help="cells with one of these in their names")
    parser.add_argument("--tiny", action="store_true", help="everything very small, to try the script on a CPU")
    options = parser.parse_args(arguments)
    end = time.monotonic() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(TINY if options.tiny else FULL, pick_device(options.device), options.out)
    result = open_result(options.out / "gpu.json", bench)
    cells = [cell for cell in cells_of(bench.scale, options.tiny) if any(word in cell for word in options.only)]
    with alarm(end):
        for cell in cells:
            if result["cells"].get(cell, {}).keys() - (FAILURES - {"refused"}):
                continue  # done by an earlier run of the same command
            if time.monotonic() >= end:
                break
            found = bench.run(cell)
            result["cells"][cell] = found
            print(f"{cell}: {json.dumps(found)}", flush=True)
            write(options.out, result, cells)
            if "out of time" in found:
                break
    write(options.out, result, cells)
    print(f"{len(result['left'])} of {len(cells)} cells are left. Written to {options.out / 'gpu.md'}.")
    return result


def cells_of(scale: Scale, tiny: bool) -> list[str]:
    """Name the cells, those first that say most: "model / backbone / adapter / precision" and so on."""
    ranked = []
    for b, backbone in enumerate(scale.backbones):
        for a, adapter in enumerate(ADAPTERS):
            for p, precision in enumerate(PRECISIONS):
                if not tiny or (adapter == "d2st" and 0 in (b, p)) or (b, p) == (0, 0):
                    ranked.append((3 * b + a + 2 * p, f"model / {backbone} / {adapter} / {precision}"))
        for h, head in enumerate(HEADS):
            if not tiny or b == 0:
                ranked.append((1 + 3 * b + h, f"episode / {backbone} / {head} / released fp32"))
                ranked += [(1 + 3 * b + h, f"episode / {backbone} / {head} / ours {p}") for p in ("bf16", "fp32")]
    ranked += [(5 + w, f"loading / {workers} workers") for w, workers in enumerate(scale.workers)]
    return [cell for _, cell in sorted(ranked, key=lambda ranked: ranked[0])]


@contextlib.contextmanager
def alarm(end: float) -> Iterator[None]:
    """Interrupt what is running at ``end``, where the operating system can."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(end - time.monotonic(), 0.05))
    try:
        yield
    except OutOfTime:
        pass  # between two cells
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def open_result(file: Path, bench: "Bench") -> dict:
    """Begin a result, with the cells that an earlier run of the same code on the same device measured."""
    result = {**circumstances(), "setup": bench.describe(), "cells": {}, "left": []}
    if file.exists():
        earlier = json.loads(file.read_text("utf-8"))
        of_now = json.loads(json.dumps(result))
        if all(earlier.get(key) == of_now[key] for key in ("setup", "versions", "git")):
            result["cells"] = earlier["cells"]
    return result


class Bench:
    """Measure cells on one device."""

    def __init__(self, scale: Scale, device: torch.device, out: Path) -> None:
        self.scale, self.device, self.out = scale, device, out
        self.built: dict[str, nn.Module] = {}

    def describe(self) -> dict:
        """Say what is measured where; results of another setup are not of the same table."""
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        machine = {"device": name, "processors": os.cpu_count(), "torch": torch.__version__}
        return machine | {"threads": torch.get_num_threads(), "clips_at_once": CLIPS, **asdict(self.scale)}

    def run(self, cell: str) -> dict:
        """Measure a cell; what cannot be measured has a reason in place of figures."""
        kind, *what = cell.split(" / ")
        try:
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return getattr(self, kind)(*what)
        except OutOfTime:
            return {"out of time": "the minutes were over"}
        except d2st.D2STError as error:
            return {"refused": str(error)}
        except torch.OutOfMemoryError:
            return {"out of memory": "the device has too little"}
        except Exception as error:  # the other cells are worth more than this one
            return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        finally:
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def model(self, backbone: str, adapter: str, precision: str) -> dict:
        """Measure an encoder."""
        encoder = self.encoder(backbone, adapter)
        video = self.video(encoder)
        if precision == "bf16 compile":
            encoder.compile_blocks(backend=self.scale.compiler)
        autocast_to = precision.split()[0].replace("tf32", "fp32")
        start = time.perf_counter()
        with tf32(precision == "tf32"):
            found = {
                task.__name__: self.rate(lambda task=task: cost.seconds(task, encoder, video, autocast_to).wall)
                for task in (cost.forward, cost.step)
            }
            found["seconds"] = round(time.perf_counter() - start, 1)  # with warm-up and compilation
            found["peak_bytes"] = cost.peak_memory(encoder, video, autocast_to)
        if encoder.compiled:
            torch.compiler.reset()
        return found

    def episode(self, backbone: str, head: str, how: str) -> dict:
        """Measure a training step of an episode, and its forward pass."""
        who, precision = how.split()
        encoder = self.encoder(backbone, "d2st")
        video, classes = self.video(encoder), torch.arange(WAY, device=self.device)
        head_module = d2st.heads.build(head)
        if who == "released":
            ordinary(encoder.backbone)
            loop = importlib.import_module(f"loops.{head.replace('-', '_')}").Loop(head_module)
            loss = Released(encoder, loop)
        else:
            loss = EpisodicLoss(encoder, head_module, WAY, 1, 1)
        loss.to(self.device).train()

        def forward() -> None:
            with torch.no_grad(), autocast(self.device, precision):
                loss(video, classes)

        def step() -> None:
            with autocast(self.device, precision):
                value, _ = loss(video, classes)
            value.backward()
            loss.zero_grad()

        graph = mock.patch("d2st.layers.checkpointed.transformed", lambda: True)
        with tf32(False), graph if who == "released" else contextlib.nullcontext():
            found = {
                run.__name__: self.rate(lambda run=run: cost.measure_seconds(run, self.device).wall)
                for run in (forward, step)
            }
            found["peak_bytes"] = cost.measure_peak(step, self.device)
        return found

    def loading(self, workers: str) -> dict:
        """Measure how many clips a second are read from a store, and given to the device."""
        count = int(workers.split()[0])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            clips = self.clips()
        size = (self.scale.image_size, self.scale.image_size)
        transforms = Preprocessing.of_timm({}, size).episode_transforms("plain", flip=True, jitter=0.0, augment="all")
        (support, _), (query, normalize) = map(parts, transforms)
        sampler = EpisodeSampler(clips.labels, WAY, 1, 1, 0, clips.classes)
        units = EpisodeClips(clips, sampler, sampling.build("uniform", self.scale.frames), support, query)
        warm, most = max(1, 2 * count), 10_000
        loader = DataLoader(
            units,
            sampler=range(most),
            batch_size=None,
            num_workers=count,
            pin_memory=self.device.type == "cuda",
        )
        read, start = 0, 0.0
        for unit in loader:
            if unit.failure:
                raise d2st.D2STError(unit.failure)
            normalize(unit.video.to(self.device, non_blocking=True))
            read += 1
            if read == warm:
                start = time.perf_counter()
            elif read > warm and time.perf_counter() - start >= 3 * self.scale.seconds:
                break
        return {"clips_a_second": round((read - warm) * CLIPS / (time.perf_counter() - start), 1)}

    def encoder(self, backbone: str, adapter: str) -> d2st.VideoEncoder:
        """Build an encoder on weights that all encoders of a backbone share."""
        if backbone not in self.built:
            built = backbones.build(self.scale.backbones[backbone], False, self.scale.image_size)
            self.built[backbone] = built.to(self.device)
        own = cost.shared_copy(self.built[backbone])
        return d2st.adapt(own, SYSTEMS[adapter](), frames=self.scale.frames, image_size=self.scale.image_size)

    def video(self, encoder: d2st.VideoEncoder) -> Tensor:
        return torch.randn(CLIPS, self.scale.frames, 3, *encoder.image_size, device=self.device)

    def clips(self) -> ClipSet:
        """Render clips and decode them into a frame store, or find it from an earlier cell."""
        folder = self.out / "clips"
        names = split()["train"][:WAY]
        clips = {"train": self.scale.clips}
        workers = None if self.scale is FULL else 0
        for _ in write_benchmark(folder, RenderConfig(self.scale.side, clips=clips, workers=workers), {"train": names}):
            pass
        split_file, store = folder / "split.yaml", folder / "store"
        write_store(folder / "clips", store, split_file, StoreOptions(workers=workers))
        return open_dataset(store, split_file, "train", warn=False)

    def rate(self, seconds: Callable[[], float]) -> dict:
        """Measure again and again: clips a second of the median run."""
        runs = []
        for _ in range(2):
            seconds()  # a warm-up, with what is compiled or chosen at the first call
        while len(runs) < 3 or (sum(runs) < self.scale.seconds and len(runs) < 100):
            runs.append(seconds())
        median = statistics.median(runs)
        return {"clips_a_second": round(CLIPS / median, 3), "median_s": round(median, 6), "runs": len(runs)}


class Released(nn.Module):
    """The released training step: two forward passes, then the head in loops, all in the precision of the weights."""

    def __init__(self, encoder: nn.Module, loop: nn.Module) -> None:
        super().__init__()
        self.encoder, self.loop = encoder, loop

    def forward(self, video: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        support, query = (self.encoder(part) for part in video.split(WAY))
        labels = torch.arange(WAY, device=video.device)
        logits = self.loop(support, labels, query, WAY)
        return F.cross_entropy(logits, labels), logits


@contextlib.contextmanager
def tf32(enable: bool) -> Iterator[None]:
    """Let float32 products on a GPU be computed in TF32, or not; elsewhere it does nothing."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if enable else "highest")
    torch.backends.cudnn.allow_tf32 = enable
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def write(out: Path, result: dict, cells: list[str]) -> None:
    """Write the result, and the tables of it."""
    found = result["cells"]
    result["left"] = [cell for cell in cells if cell not in found or "out of time" in found[cell]]
    write_json(out / "gpu.json", result)
    setup = result["setup"]
    report = Report(f"What {setup['device']} does in a second")
    about = f"{setup['frames']} frames of {setup['image_size']} px, {setup['clips_at_once']} clips at once"
    machine = f"torch {setup['torch']}, processors: {setup['processors']}, threads: {setup['threads']}"
    report.text(
        f"Clips a second, of {about}; random weights; {machine}. Peak is of a step, above the weights. "
        f"`{result['command']}`"
    )
    measured = {cell: row for cell, row in found.items() if not row.keys() & FAILURES}
    rows = []
    for kind in ("model", "episode"):
        for cell in sorted(cell for cell in measured if cell.startswith(kind)):
            row = measured[cell]
            rates = [f"{row[task]['clips_a_second']:.3g}" for task in ("forward", "step")]
            rows.append([*cell.split(" / "), *rates, f"{row['peak_bytes'] / 2**30:.3g}"])
    report.table(["", "backbone", "adapter or head", "precision", "forward", "step", "peak GiB"], rows, text=4)
    loading = [[cell.split(" / ")[1], row["clips_a_second"]] for cell, row in measured.items() if "loading" in cell]
    report.table(["loading", "clips a second"], sorted(loading, key=lambda line: int(line[0].split()[0])))
    for cell, row in found.items():
        for why, reason in row.items():
            if why in FAILURES - {"out of time"}:
                report.text(f"{cell}: {why} ({reason})")
    if result["left"]:
        report.text(f"Not reached: {'; '.join(result['left'])}.")
    report.write(out / "gpu.md")


if __name__ == "__main__":
    main()
