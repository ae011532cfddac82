"""Run ``d2st bench``: measure parameters, FLOPs, time and memory of every adapter, beside the frozen backbone."""

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from torch import Tensor, nn

from ..adapters import SYSTEMS, AdapterConfig, NoneConfig
from ..backbones import build as backbones
from ..encoder import VideoEncoder, adapt
from ..errors import D2STError
from ..evaluation import cost
from ..factory.encoder import DEFAULT_BACKBONE
from ..utils.console import plain_console, plain_table, say
from ..utils.device import pick_device, torch_threads
from ..utils.files import write_png
from ..utils.options import Precision
from ..utils.progress import progress
from ..utils.provenance import config_dict, write_result
from ..utils.report import Report
from ..visualize.charts import Point, accuracy_against_parameters, collect
from .tool_options import BenchConfig

# Settings measured beside a system's defaults: D2ST's pathways alone (paper Table 5), DUALPATH for clips that do not
# fill 4x4 framesets, DiST with a ViT that sees every frame.
VARIANTS = {
    "d2st": [{"pathways": pathways} for pathways in ("spatial", "temporal", "uniform")],
    "dualpath": [{"tiles": 2}],
    "dist": [{"stride": 1}],
}
TASKS = {"forward": cost.forward, "step": cost.step}


def bench(config: BenchConfig) -> dict:
    """Measure every adapter that fits the backbone; those that do not are listed with the reason.

    Returns:
        What bench.json holds. For each adapter: tunable and all parameters; of a forward pass and of a training step
        the FLOPs, the seconds of every run and the least of them, and the step's peak memory in bytes, all with their
        ratio to the frozen backbone. The ratio of seconds is the median over runs, each beside a run of the frozen
        backbone just before it.

    Raises:
        D2STError: an option cannot be used.
    """
    systems = _systems(config)
    device = pick_device(config.device)
    folders = (config.results,) if isinstance(config.results, str) else config.results or ()
    if folders and not config.out:
        raise D2STError("--results are drawn into the folder --out: name one.")
    panels = collect(folders) if folders else {}
    with torch_threads(config.threads):
        encoders, refused = _encoders(config, systems, device)
        torch.manual_seed(config.seed)
        video = torch.randn(config.clips, config.frames, 3, *encoders[0].image_size).to(device)
        rows = _measure(encoders, video, config.precision, config.repeats)
        result = {"machine": _machine(device), "adapters": rows, "refused": refused}
    path = write_files(config, result, panels) if config.out else None
    print_table(config, result)
    if path:
        say(f"Written to {path}.")
    return result


def _systems(config: BenchConfig) -> list[AdapterConfig]:
    """List what is measured, the frozen backbone first."""
    given = config.adapters if config.adapters is not None else tuple(SYSTEMS)
    names = ",".join([given] if isinstance(given, str) else given).split(",")
    systems = [NoneConfig()]
    for name in names:
        if name not in SYSTEMS:
            raise D2STError(f"--adapters {name!r} is not one of {', '.join(SYSTEMS)}.")
        systems += [SYSTEMS[name](**settings) for settings in ({}, *VARIANTS.get(name, ()))]
    return list(dict.fromkeys([*systems, config.adapter]))


def _encoders(
    config: BenchConfig, systems: Sequence[AdapterConfig], device: torch.device
) -> tuple[list[VideoEncoder], list[dict]]:
    """Build an encoder for each system that fits the backbone, on shared weights; and say what does not fit.

    One that can be merged into the backbone is there twice, before and after.
    """
    torch.manual_seed(config.seed)
    name = config.backbone or DEFAULT_BACKBONE
    backbone = backbones.build(name, config.weights or False, config.image_size).to(device)
    encoders, refused = [], []
    for system in systems:
        try:
            encoders.append(_encoder(config, system, backbone))
            if encoders[-1].mergeable:
                encoders.append(_encoder(config, system, backbone).merge())
        except D2STError as error:
            if system == NoneConfig():
                raise  # the backbone itself cannot be used
            refused.append({"adapter": system.label, "reason": str(error)})
    return encoders, refused


def _encoder(config: BenchConfig, system: AdapterConfig, backbone: nn.Module) -> VideoEncoder:
    own = cost.shared_copy(backbone)
    return adapt(own, system, frames=config.frames, image_size=config.image_size)


def label(encoder: VideoEncoder) -> str:
    """Name an encoder's line: its system's label, and whether it was merged."""
    return f"{encoder.config.label} merged" if encoder.merged else encoder.config.label


def _measure(encoders: Sequence[VideoEncoder], video: Tensor, precision: Precision, repeats: int) -> list[dict]:
    """Measure encoders, the frozen backbone first, on clips (B, T, 3, H, W): what bench.json holds of each."""
    rows = []
    runs = {(i, task): [] for i in range(len(encoders)) for task in TASKS}
    with progress("measuring", len(encoders) * (1 + repeats), "adapters") as advance:
        for encoder in encoders:
            rows.append(_count(encoder, video, precision))
            cost.seconds(cost.forward, encoder, video, precision)  # a warm-up, like the two before it
            advance(1, label(encoder))
        for _ in range(repeats):
            for i, encoder in enumerate(encoders):
                for name, task in TASKS.items():
                    pair = [cost.seconds(task, each, video, precision) for each in (encoders[0], encoder)]
                    runs[i, name].append(pair)
                advance(1, label(encoder))
    for name in TASKS:
        frozen = dict(rows[0][name])
        for i, row in enumerate(rows):
            row[name] |= {f"{key}_ratio": row[name][key] / value for key, value in frozen.items()}
            if repeats:
                row[name] |= _times(runs[i, name])
    return rows


def _count(encoder: VideoEncoder, video: Tensor, precision: Precision) -> dict:
    """Count what needs no clock."""
    trainable, total = encoder.parameter_count()
    forward_flops, step_flops = cost.count_flops(encoder, video)
    return {
        "adapter": label(encoder),
        "config": config_dict(encoder.config),
        "parameters": {"trainable": trainable, "total": total, "share": trainable / total},
        "forward": {"flops": forward_flops},
        "step": {"flops": step_flops, "peak_bytes": cost.peak_memory(encoder, video, precision)},
    }


def _times(pairs: Sequence[tuple[cost.Seconds, cost.Seconds]]) -> dict:
    """Summarize pairs of runs: the frozen backbone's and then the adapter's."""
    times = {}
    for clock in cost.Seconds._fields:
        own = [getattr(run, clock) for _, run in pairs]
        ratios = [getattr(run, clock) / max(getattr(frozen, clock), 1e-9) for frozen, run in pairs]
        times[clock] = {"seconds": min(own), "ratio": statistics.median(ratios), "runs": own, "ratios": ratios}
    return times


def _machine(device: torch.device) -> dict:
    """Describe the device and the processors that were measured."""
    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {"device": name, "processors": os.cpu_count(), "threads": torch.get_num_threads()}


def print_table(config: BenchConfig, result: dict) -> None:
    """Show the table on the terminal; times are the clock's."""
    header, lines = _table(result["adapters"], {"wall": "time"} if config.repeats else {})
    table = plain_table(box=box.SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    for name in header:
        table.add_column(name, justify="left" if name == "adapter" else "right", no_wrap=name == "adapter")
    for line in lines:
        table.add_row(*line)
    console = plain_console()
    console.print(table)
    for note in _notes(config, result):
        console.print(note, highlight=False)


def write_files(config: BenchConfig, result: dict, panels: dict[str, list[Point]]) -> Path:
    """Write ``bench.json``, ``bench.md`` and, where there are points, ``accuracy.png``; gives the first."""
    out = Path(config.out)
    path = write_result(out / "bench.json", config, result)
    report = Report("What the adapters cost")
    report.table(*_table(result["adapters"], {"wall": "time", "cpu": "CPU"} if config.repeats else {}))
    for note in _notes(config, result):
        report.text(note)
    if panels:
        write_png(out / "accuracy.png", accuracy_against_parameters(panels))
        report.picture("accuracy.png", "Accuracy against trained parameters, with 95 % intervals.")
    report.write(out / "bench.md")
    return path


def _table(rows: Sequence[dict], clocks: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """Lay out header and lines: the frozen backbone's own figures, and the others' as multiples of them.

    Args:
        rows: the adapters, the frozen backbone first.
        clocks: those that were timed and are to be shown, with the headings of their columns.
    """
    header = ["adapter", "tunable", "%"]
    for task in TASKS:
        header += [f"{task} {what}" for what in ("FLOPs", *clocks.values())]
    header.append("memory")
    lines = []
    for row in rows:
        parameters = row["parameters"]
        frozen = row is rows[0]
        line = [row["adapter"], f"{parameters['trainable']:,}", f"{100 * parameters['share']:.2f}"]
        for task in TASKS:
            part = row[task]
            line.append(f"{part['flops'] / 1e9:.3g} G" if frozen else f"{part['flops_ratio']:.3f}×")
            for clock in clocks:
                line.append(f"{part[clock]['seconds']:.3g} s" if frozen else f"{part[clock]['ratio']:.2f}×")
        step = row["step"]
        line.append(f"{step['peak_bytes'] / 2**20:.3g} MiB" if frozen else f"{step['peak_bytes_ratio']:.2f}×")
        lines.append(line)
    return header, lines


def _notes(config: BenchConfig, result: dict) -> list[str]:
    """Say what was measured, and what was not."""
    clips = "a clip" if config.clips == 1 else f"{config.clips} clips"
    machine = result["machine"]
    text = (
        f"{config.backbone or DEFAULT_BACKBONE} with {'given' if config.weights else 'random'} weights, {clips} of "
        f"{config.frames} frames, {config.precision}, torch {torch.__version__}, {machine['device']}, processors: "
        f"{machine['processors']}, threads: {machine['threads']}. Multiples are of the frozen backbone (none), whose "
        "training step goes back to its input."
    )
    if config.repeats:
        text += f" Repeats: {config.repeats}; seconds are the least, multiples the median."
    refused: dict[str, list[str]] = {}
    for entry in result["refused"]:
        refused.setdefault(entry["reason"], []).append(entry["adapter"])
    return [text, *(f"Not measured, {', '.join(labels)}: {reason}" for reason, labels in refused.items())]
