"""Train adapters side by side and record when they begin to learn: the tables of docs/why-late.md.

    python benchmarks/dynamics.py --out runs/dynamics --study lengths --jobs 2
    python benchmarks/dynamics.py --out runs/dynamics --study lengths --only local --seeds 0
    python benchmarks/dynamics_report.py --out runs/dynamics

A study of ``dynamics.yaml`` is a list of cells; a cell is one training, and its result one JSON file in
``runs/dynamics/cells``. What is done is not done again. Everything random follows from the seed. The frozen layers
before the first adapter are computed once, as by ``d2st train --prefix-crops``, but in cells with ``crops: 0``; where a
system has none such (``kept: pixels``), the crops themselves are kept. Both stay in ``runs/dynamics/maps``, 0.4 to 4 GB
for the data of a training; all studies together need 50 GB.
Learning rates are chosen on validation classes; cells with ``test: true`` are also tested, once.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

import d2st
from d2st.adapters import SYSTEMS
from d2st.data import sampling
from d2st.data.datasets import ClipSet, open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.data.loaders import EpisodeClips
from d2st.data.rendered import LOOKS, MOTIONS, RenderConfig, split, write_benchmark
from d2st.data.transforms import ClipTransform, as_it_is, parts
from d2st.evaluation.episodes import score
from d2st.features.encode import encode_clips
from d2st.features.prefix import Suffix, split_encoder
from d2st.features.prefix_maps import PrefixMaps
from d2st.training import optim
from d2st.training.episodic import EpisodicLoss
from d2st.training.gradients import norms_by_part
from d2st.training.metrics import left_chance
from d2st.training.options import EpisodicScheduleOptions
from d2st.utils.device import autocast
from d2st.utils.distributed import launch
from d2st.utils.options import ComputeOptions
from d2st.utils.provenance import circumstances
from d2st.utils.signals import follow_parent
from d2st.visualize.diagnosis import diagnose, spread_clips

PLAN = Path(__file__).with_suffix(".yaml")
BLOCK = 50  # episodes whose accuracies are averaged for the curves
WATCHED = 8  # clips


def cells_of(plan: dict, study: str) -> list[dict]:
    """List the cells of a study: every combination of its axes, and every seed."""
    described = plan["studies"][study]
    found = []
    for block in described if isinstance(described, list) else [described]:
        axes = block.get("axes", {})
        for values in itertools.product(*axes.values()):
            chosen = dict(zip(axes, values, strict=True))
            system = chosen.pop("system", block.get("system"))
            data = chosen.pop("data", block.get("data", "motions"))
            cell = {**plan["defaults"], **plan["data"][data]["cell"]}
            cell |= {k: v for k, v in block.items() if k not in ("axes", "seeds", "system", "data")}
            cell |= {"data": data, "system": system}
            own = plan["systems"][system]
            cell |= {"adapter": own["adapter"], "settings": own.get("settings", {})}
            cell |= own.get("cell", {}) | own.get(data, {}) | chosen
            known = {field.name for field in dataclasses.fields(SYSTEMS[cell["adapter"]])}
            shared = {name: value for name, value in plan["data"][data]["settings"].items() if name in known}
            cell["settings"] = {**shared, **cell["settings"]}
            for seed in range(block.get("seeds", 1)):
                found.append(cell | {"seed": seed})
    return found


def read_plan(path: Path = PLAN, **places: list[str]) -> dict:
    """Read the plan; ``clips`` and ``weights`` say NAME=PLACE where real ones are."""
    plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    for kind in ("clips", "weights"):
        plan[kind] = dict(pair.split("=", 1) for pair in places.get(kind, ()))
    return plan


def name_of(cell: dict) -> str:
    """Name a cell's file: readable, and different for different cells."""
    digest = hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:8]
    told = [cell["data"], cell["system"], cell["head"], f"T{cell['frames']}", f"E{cell['episodes']}"]
    return "_".join([*map(str, told), f"s{cell['seed']}", digest])


def prepare(out: Path, plan: dict, data: str) -> tuple[str, str]:
    """Render a benchmark, or find it; gives its folder and its split file."""
    real = plan["data"][data].get("clips")
    if real:
        return plan["clips"][real], f"{plan['clips'][real]}.split.yaml"
    parts = split({"motions": MOTIONS, "looks": LOOKS}[data])
    folder = out / "data" / data
    for _ in write_benchmark(folder, RenderConfig(), parts):
        pass
    return str(folder / "clips"), str(folder / "split.yaml")


def run(out: Path, plan: dict, cell: dict) -> dict:
    """Train and evaluate a cell; gives its result."""
    torch.set_num_threads(1)
    folder, split_file = prepare(out, plan, cell["data"])
    began, cpu = time.monotonic(), time.process_time()
    torch.manual_seed(cell["seed"])
    config = SYSTEMS[cell["adapter"]](**settings_of(cell))
    weights = plan["weights"].get(cell["backbone"], True)
    like = {"frames": cell["frames"], "image_size": cell.get("image_size"), "pretrained": weights}
    encoder = d2st.adapt(cell["backbone"], config, **like)
    keep_maps(encoder)
    train = open_dataset(folder, split_file, "train")
    suffix, clips, transform = material(encoder, train, cell, out / "maps")
    head = d2st.create_head(cell["head"], encoder, classes=len(train.classes), **plan["heads"].get(cell["head"], {}))
    loss = EpisodicLoss(encoder, head, cell["way"], 1, 1, True, len(train.classes), cell["class_loss"], suffix=suffix)
    watched = []
    if "watch" in cell:
        watched = list(spread_clips(encoder, open_dataset(folder, split_file, "val"), WATCHED))
    trained = train_episodes(loss, clips, transform, cell, watched)
    loss.eval()
    result = {"cell": cell, **trained, "parameters": encoder.parameter_count()[0]}
    for part in ["val", "test"] if cell["test"] else ["val"]:
        result[part] = evaluate(open_dataset(folder, split_file, part), encoder, head, cell)
    if watched:
        encoder.save_pretrained(out / "adapters" / name_of(cell))
    result |= {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - cpu, **circumstances()}
    return result


class AllOfIt(nn.Module):
    """Stand for the layers behind the frozen ones where a system leaves none, so that what is kept are the crops."""

    cut = "the pixels"

    def __init__(self, encoder: d2st.VideoEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.map_shape = (3, *encoder.image_size)

    def forward(self, maps: Tensor) -> Tensor:
        return self.encoder(maps.float())

    def features_and_maps(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder.features_and_maps(maps.float())

    def prefix(self, frames: Tensor) -> Tensor:
        return frames


def settings_of(cell: dict) -> dict:
    """Give the settings of a cell's system as its config takes them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in cell["settings"].items()}


def material(
    encoder: d2st.VideoEncoder, clips: ClipSet, cell: dict, folder: Path
) -> tuple[Suffix | AllOfIt | None, ClipSet, ClipTransform]:
    """Give what a training draws from: maps of some crops of each clip with the layers that follow, or, with crops 0,
    the clips themselves, of which every episode crops anew.
    """
    augmentation = {"transforms": "plain", "flip": False, "jitter": 0.0}
    if not cell["crops"]:
        return None, clips, encoder.transform(train=True, **augmentation)
    suffix = AllOfIt(encoder) if cell.get("kept") == "pixels" else split_encoder(encoder)
    compute = ComputeOptions(workers=0, precision=precision_of(cell))
    maps = PrefixMaps(suffix, clips, cell["crops"], augmentation, folder, 20, compute)
    maps.prepare(launch(torch.device("cpu")))
    return suffix, maps.clips, as_it_is


def precision_of(cell: dict) -> str:
    """Tell in what a cell computes."""
    return cell.get("precision", "fp32")


def keep_maps(encoder: d2st.VideoEncoder) -> None:
    """Let adapters keep their inner maps for the backward pass: here that costs little memory, and spares a forward."""
    for module in encoder.adapters.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda *_: None)


def train_episodes(
    loss: EpisodicLoss, clips: ClipSet, transform: ClipTransform, cell: dict, watched: list[Tensor]
) -> dict:
    """Train as ``d2st train`` does.

    Returns:
        Loss and accuracy by blocks of episodes, when it left chance, and every ``watch`` episodes how the attention
        does on watched clips, with the gradient's norm by parts.
    """
    options = EpisodicScheduleOptions(
        lr=cell["lr"],
        head_lr=cell["head_lr"],
        weight_decay=cell.get("weight_decay", 0.0),
        schedule="cosine",
        warmup=0.05,
        warmup_from=0.2,
    )
    groups = optim.parameter_groups(loss, options, loss.encoder.config.lr_shares)
    optimizer = torch.optim.Adam(groups, lr=cell["lr"])
    schedule = optim.episodic_schedule(options, max(1, cell["episodes"]))
    sampler = EpisodeSampler(clips.labels, cell["way"], 1, 1, cell["seed"], clips.classes)
    pixels, normalize = parts(transform)
    episodes = EpisodeClips(clips, sampler, sampling.build("uniform", cell["frames"]), pixels, pixels)
    loss.train()
    losses, steps, seen = [], [], []
    for index in range(cell["episodes"]):
        episode = episodes[index]
        with autocast(episode.video.device, precision_of(cell)):
            value, accuracy = loss(normalize(episode.video), episode.classes)
        value.backward()
        if watched and index % cell["watch"] == 0:
            seen.append({"episode": index, "gradient": norms_by_part(loss), "pathways": looked(loss, watched)})
        for group in optimizer.param_groups:
            group["lr"] = schedule(index) * group["lr_share"]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
        steps.append({"episode": index + 1, "accuracy": accuracy.item()})
    accuracies = blocks([step["accuracy"] for step in steps])
    left = left_chance(steps, 1 / cell["way"])
    return {"left_chance": left, "losses": blocks(losses), "accuracies": accuracies, "seen": seen}


def blocks(values: list[float]) -> list[float]:
    """Means of the whole blocks of episodes."""
    whole = len(values) // BLOCK * BLOCK
    return np.reshape(values[:whole], (-1, BLOCK)).mean(1).round(4).tolist() if whole else []


def looked(loss: EpisodicLoss, watched: list[Tensor]) -> list[dict]:
    """Measure how the attention of every pathway does."""
    encoder = loss.encoder
    encoder.eval()
    found = [dataclasses.asdict(pathway) for pathway in diagnose(encoder, watched)]
    encoder.train()
    return found


def evaluate(clips: ClipSet, encoder: d2st.VideoEncoder, head: d2st.heads.Head, cell: dict) -> dict:
    """Measure accuracy on the classes of a part, at 1 and 5 shots; by the heads of ``also`` too, which do not train."""
    sample = sampling.build("uniform", cell["frames"])
    encoded = encode_clips(encoder, clips, sample, encoder.transform(), heads=[head], precision=precision_of(cell))
    found = {}
    way = min(cell["way"], len(clips.classes))
    for name in (None, *cell.get("also", ())):
        own = head if name is None else d2st.create_head(name)
        accuracies = found if name is None else found.setdefault(name, {})
        for shot in (1, 5):
            sampler = EpisodeSampler(clips.labels[encoded.clips], way, shot, 1, 0, clips.classes)
            scores = score(encoded.embedded(own), sampler, own, cell["test_episodes"])
            accuracies |= {f"{shot}-shot": scores.mean, f"{shot}-shot interval": scores.interval}
    return found


def run_one(out: Path, plan: dict, cell: dict) -> str:
    """Run a cell and write its file."""
    path = out / "cells" / f"{name_of(cell)}.json"
    if path.exists():
        return f"{path.stem} is done"
    result = run(out, plan, cell)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(result, indent=1, default=str))
    temporary.rename(path)
    accuracy = result["val"]["1-shot"]
    return f"{path.stem}: validation 1-shot {100 * accuracy:.1f} %, left chance at episode {result['left_chance']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/dynamics", type=Path)
    parser.add_argument("--plan", default=PLAN, type=Path)
    parser.add_argument("--study", nargs="*", default=[])
    parser.add_argument("--clips", nargs="*", default=[], metavar="NAME=FOLDER", help="where the real sets are")
    parser.add_argument("--weights", nargs="*", default=[], metavar="BACKBONE=FILE", help="in place of a download")
    parser.add_argument("--only", nargs="*", help="systems")
    parser.add_argument("--data", nargs="*")
    parser.add_argument("--heads", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, with a thread each")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    plan = read_plan(options.plan, clips=options.clips, weights=options.weights)
    cells = [cell for study in options.study for cell in cells_of(plan, study)]
    cells.sort(key=lambda cell: cell["seed"])  # all cells once, then again
    wanted = {"system": options.only, "data": options.data, "head": options.heads, "seed": options.seeds}
    cells = [c for c in cells if all(values is None or c[key] in values for key, values in wanted.items())]
    (options.out / "cells").mkdir(parents=True, exist_ok=True)
    if options.dry_run:
        for cell in cells:
            print(name_of(cell), cell)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.jobs, context, follow_parent, (0,)) as pool:
        for done in concurrent.futures.as_completed([pool.submit(run_one, options.out, plan, cell) for cell in cells]):
            print(done.result(), flush=True)
    maps = options.out / "maps"
    kept = sum(file.stat().st_size for file in maps.rglob("*") if file.is_file())
    print(f"{maps} keeps {kept / 1e9:.1f} GB for further cells; without any it can be removed.")


if __name__ == "__main__":
    main()
