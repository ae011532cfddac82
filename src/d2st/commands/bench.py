"""``d2st bench``: parameters, FLOPs, time and memory of every adapter on this machine, beside the frozen backbone."""

import os
import platform
import statistics
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from rich import box

from ..adapters import SYSTEMS, AdapterConfig, NoneConfig
from ..backbones import build as backbones
from ..encoder import VideoEncoder, adapt
from ..errors import D2STError
from ..evaluation import cost as measure
from ..factory.encoder import DEFAULT_BACKBONE
from ..utils.console import plain_console, plain_table, say
from ..utils.device import pick_device
from ..utils.files import write_png
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
    systems, device = _systems(config), pick_device(config.device)
    folders = (config.results,) if isinstance(config.results, str) else config.results or ()
    if folders and not config.out:
        raise D2STError("--results are drawn into the folder --out: name one.")
    panels = collect(folders) if folders else {}
    with _threads(config.threads):
        encoders, refused = _encoders(config, systems, device)
        rows = _measure(config, encoders, device)
        result = {"machine": _machine(device), "adapters": rows, "refused": refused}
    path = write_files(config, result, panels) if config.out else None
    print_table(config, result)
    if path:
        say(f"Written to {path}.")
    return result


def _systems(config: BenchConfig) -> list[AdapterConfig]:
    """What is measured, the frozen backbone first."""
    names = config.adapters if config.adapters is not None else tuple(SYSTEMS)
    names = [name for part in ([names] if isinstance(names, str) else names) for name in part.split(",")]
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise D2STError(f"--adapters {unknown[0]!r} is not one of {', '.join(SYSTEMS)}.")
    chosen = [SYSTEMS[name](**settings) for name in names for settings in ({}, *VARIANTS.get(name, ()))]
    return list(dict.fromkeys([NoneConfig(), *chosen, config.adapter]))


def _encoders(
    config: BenchConfig, systems: Sequence[AdapterConfig], device: torch.device
) -> tuple[list[VideoEncoder], list[dict]]:
    """An encoder for each system that fits the backbone, on weights that they share; and what does not fit."""
    torch.manual_seed(config.seed)
    name = config.backbone or DEFAULT_BACKBONE
    backbone = backbones.build(name, config.weights or False, config.image_size).to(device)
    encoders, refused = [], []
    for system in systems:
        try:
            twin = measure.twin(backbone)
            encoders.append(adapt(twin, system, frames=config.frames, image_size=config.image_size))
        except D2STError as error:
            if system == NoneConfig():
                raise  # the backbone itself is at fault
            refused.append({"adapter": system.label, "reason": str(error)})
    return encoders, refused


def _measure(config: BenchConfig, encoders: Sequence[VideoEncoder], device: torch.device) -> list[dict]:
    torch.manual_seed(config.seed)
    video = torch.randn(config.clips, config.frames, 3, *encoders[0].image_size).to(device)
    tasks = {"forward": measure.forward, "step": measure.step}
    rows = []
    with progress("measuring", len(encoders) * (1 + config.repeats), "adapters") as advance:
        for encoder in encoders:
            trainable, total = encoder.parameter_count()
            flops = measure.count_flops(encoder, video)
            rows.append(
                {
                    "adapter": encoder.config.label,
                    "config": config_dict(encoder.config),
                    "parameters": {"trainable": trainable, "total": total, "share": trainable / total},
                    "forward": {"flops": flops[0]},
                    "step": {"flops": flops[1], "peak_bytes": measure.peak_memory(encoder, video, config.precision)},
                }
            )
            measure.seconds(measure.forward, encoder, video, config.precision)  # a warm-up, like the two before it
            advance(1, encoder.config.label)
        runs = {(i, name): [] for i in range(len(encoders)) for name in tasks}
        for _ in range(config.repeats):
            for i, encoder in enumerate(encoders):
                for name, task in tasks.items():
                    pair = [measure.seconds(task, e, video, config.precision) for e in (encoders[0], encoder)]
                    runs[i, name].append(pair)
                advance(1, encoder.config.label)
    for i, row in enumerate(rows):
        for name in tasks:
            part, base = row[name], rows[0][name]
            for key in tuple(part):
                part[f"{key}_ratio"] = part[key] / base[key]
            if config.repeats:
                part |= _times(runs[i, name])
    return rows


def _times(pairs: Sequence[tuple[measure.Seconds, measure.Seconds]]) -> dict:
    """Figures from pairs of runs: the frozen backbone's and then the adapter's."""
    times = {}
    for clock in measure.Seconds._fields:
        own = [getattr(run, clock) for _, run in pairs]
        ratios = [getattr(run, clock) / max(getattr(frozen, clock), 1e-9) for frozen, run in pairs]
        times[clock] = {"seconds": min(own), "ratio": statistics.median(ratios), "runs": own, "ratios": ratios}
    return times


def _machine(device: torch.device) -> dict:
    cpu = {"processors": os.cpu_count(), "threads": torch.get_num_threads()}
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else kind, **cpu}


@contextmanager
def _threads(count: int | None):
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    """Header and lines: the frozen backbone's own figures, and the others' as multiples of them.

    ``clocks`` are those that were timed and are to be shown, with the headings of their columns.
    """
    header = ["adapter", "tunable", "%"]
    header += [f"{task} {what}" for task in ("forward", "step") for what in ("FLOPs", *clocks.values())] + ["memory"]
    lines = []
    for row in rows:
        parameters, frozen = row["parameters"], row is rows[0]
        line = [row["adapter"], f"{parameters['trainable']:,}", f"{100 * parameters['share']:.2f}"]
        for task in ("forward", "step"):
            part = row[task]
            line.append(f"{part['flops'] / 1e9:.3g} G" if frozen else f"{part['flops_ratio']:.3f}×")
            for clock in clocks:
                line.append(f"{part[clock]['seconds']:.3g} s" if frozen else f"{part[clock]['ratio']:.2f}×")
        step = row["step"]
        line.append(f"{step['peak_bytes'] / 2**20:.3g} MiB" if frozen else f"{step['peak_bytes_ratio']:.2f}×")
        lines.append(line)
    return header, lines


def _notes(config: BenchConfig, result: dict) -> list[str]:
    """What was measured, and what was not."""
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
