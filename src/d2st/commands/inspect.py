"""Run ``d2st inspect``: how the attention of a trained adapter does, and when its training began to learn."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from .. import adapter_file
from ..data.datasets import ClipSet, SharedPart, open_dataset, open_division
from ..encoder import VideoEncoder, adapt, load
from ..errors import D2STError
from ..training.metrics import WINDOW, above_chance, gradient_norms, left_chance, read_steps
from ..training.run_folder import RunFolder
from ..utils.console import say, tell_unreadable
from ..utils.device import autocast, pick_device, with_precision
from ..utils.progress import progress
from ..utils.provenance import read_result, write_result
from ..utils.tables import print_rows
from ..visualize.diagnosis import NO_POINTS, PathwayDiagnosis, diagnose, spread_clips
from ..visualize.points import pathways
from .tool_options import InspectConfig

SEED = 0  # of the untrained adapter
FIGURES = ("outside", "entropy", "saturated", "moved", "varied", "sharpness", "shift")


def inspect(config: InspectConfig) -> dict:
    """Measure how the attention of a trained adapter does on clips, and of an untrained one with the same settings.

    Returns:
        What inspect.json holds: for each pathway of each adapter ``site``, ``pathway``, ``volume`` and, for the
        ``trained`` and the ``untrained`` adapter, the figures of
        :class:`~d2st.visualize.diagnosis.PathwayDiagnosis`; and of a run, when it left chance and its gradients' norms.

    Raises:
        D2STError: an option cannot be used, the folder holds no adapter, or none of the clips can be read.
    """
    folder, run = _find(Path(config.adapter_path))
    device = pick_device(config.device)
    config = with_precision(config, device)
    clips = _open_part(config)
    encoder = load(folder, weights=config.weights).to(device)
    adapter, unreadable = encoder.config, {}
    result = {"adapter": adapter.label, "backbone": encoder.backbone_name, "clips": 0, "pathways": []}
    if pathways(encoder):
        trained = _measure(encoder, encoder, clips, config, unreadable)
        torch.manual_seed(SEED)
        fresh = adapt(encoder.restore(), adapter, frames=encoder.laid_out, image_size=encoder.image_size)
        untrained = _measure(fresh, encoder, clips, config, unreadable)
        result["clips"] = min(config.clips, len(clips)) - len(unreadable)
        result["pathways"] = [_pair(*both) for both in zip(trained, untrained, strict=True)]
    result["unreadable"] = [{"id": id, "reason": reason} for id, reason in unreadable.items()]
    result["run"] = _describe_run(run) if run else None
    if config.out:
        write_result(Path(config.out) / "inspect.json", config, result)
    tell_unreadable(result["unreadable"])
    _print(result)
    return result


def _find(path: Path) -> tuple[Path | str, RunFolder | None]:
    """Find the adapter's folder, and the run's where it is one.

    Raises:
        D2STError: neither is there.
    """
    if not path.is_dir() or (path / adapter_file.CONFIG).exists():
        return str(path), None  # loading says what is missing, or finds it on the Hub
    run = RunFolder(path)
    if not run.config.exists():
        raise D2STError(
            f"'{path}' holds neither an adapter ({adapter_file.CONFIG}) nor a training run ({run.config.name}). Give "
            "the folder of one, such as runs/first or runs/first/best."
        )
    if not (run.best / adapter_file.CONFIG).exists():
        raise D2STError(
            f"The run in '{path}' has no adapter in {run.best.name} yet: it is written at the first validation, or at "
            "the end where there is none. Start the training again to go on."
        )
    return run.best, run


def _open_part(config: InspectConfig) -> ClipSet:
    """Open a part of few-shot or of full-shot data: here only its clips count."""
    try:
        return open_dataset(config.data, config.split, config.part)
    except SharedPart:
        return open_division(config.data, config.split, config.part)


def _measure(
    encoder: VideoEncoder, trained: VideoEncoder, clips: ClipSet, config: InspectConfig, unreadable: dict[str, str]
) -> list[PathwayDiagnosis]:
    """Measure an encoder on clips that are read for the trained one."""
    device = next(encoder.parameters()).device
    read = spread_clips(trained, clips, config.clips, unreadable)
    with autocast(device, config.precision):
        figures = diagnose(encoder, _counted(read, min(config.clips, len(clips))))
    if not figures:
        raise D2STError(f"None of the clips in '{config.data}' that were tried can be read; run 'd2st check-data'.")
    return figures


def _counted(clips: Iterable[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
    with progress("measuring", count, "clips") as advance:
        for clip in clips:
            yield clip
            advance(1)


def _pair(trained: PathwayDiagnosis, untrained: PathwayDiagnosis) -> dict:
    """Put the figures of one pathway side by side, as JSON holds them."""
    place = {"site": trained.site, "pathway": trained.pathway, "volume": list(trained.volume)}
    for name, entry in (("trained", trained), ("untrained", untrained)):
        place[name] = {key: value for key, value in asdict(entry).items() if key in FIGURES}
    return place


def _describe_run(run: RunFolder) -> dict:
    """Tell when a run left chance, and the norms of its gradients in each quarter of it."""
    settings = read_result(run.config, remedy="give the folder of a run")
    unit, chance = "episode", None
    if isinstance(settings.get("way"), int) and settings["way"] > 0:
        chance = 1 / settings["way"]
    elif "way" not in settings:
        unit = "batch"  # of a classifier's training
        classes = read_result(run.result).get("classes") if run.result.exists() else None
        chance = 1 / classes if isinstance(classes, int) and classes > 0 else None
    steps = read_steps(run.metrics, unit)
    return {
        "unit": unit,
        "done": steps[-1][unit] if steps else 0,
        "chance": chance,
        "left_chance": left_chance(steps, chance, unit) if chance else None,
        "gradient_norms": gradient_norms(steps, unit),
    }


def _print(result: dict) -> None:
    if result["pathways"]:
        _print_table(("outside %", "entropy", "saturated %", "moved t y x", "varied t y x"), result, _figures)
        if result["pathways"][0]["trained"]["sharpness"]:
            axes = [f"{name} {axis}" for name in ("sharpness", "shift") for axis in "tyx"]
            _print_table(axes, result, _bias)
        say(
            f"{result['adapter']} on {result['backbone']}, clips: {result['clips']}. In brackets the same adapter "
            f"untrained. Distances are in cells of the feature map."
        )
    else:
        say(NO_POINTS.format(result["adapter"]))
    if result["run"]:
        _print_run(result["run"])


def _print_table(header: Sequence[str], result: dict, cells) -> None:
    rows = []
    for entry in result["pathways"]:
        both = zip(cells(entry["trained"]), cells(entry["untrained"]), strict=True)
        rows.append([entry["site"], entry["pathway"], *(f"{now} ({before})" for now, before in both)])
    _print_rows(["site", "pathway", *header], rows)


def _print_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print_rows("table", records=(), csv=((), ()), table=(header, rows))


def _figures(entry: dict) -> list[str]:
    cells = [f"{100 * entry['outside']:.0f}", f"{entry['entropy']:.2f}", f"{100 * entry['saturated']:.0f}"]
    return cells + [" ".join(f"{of_axis:.2f}" for of_axis in entry[name]) for name in ("moved", "varied")]


def _bias(entry: dict) -> list[str]:
    return [f"{least:.2f} to {most:.2f}" for name in ("sharpness", "shift") for least, most in entry[name]]


def _print_run(run: dict) -> None:
    unit, chance = run["unit"], run["chance"]
    if chance:
        rule = f"mean training accuracy of the last {WINDOW} above {100 * above_chance(chance):.0f} %"
        if run["done"] < WINDOW:
            say(f"Whether the training left chance ({100 * chance:.0f} %) cannot be told before {unit} {WINDOW}.")
        elif run["left_chance"] is None:
            say(f"Until {unit} {run['done']} the training has not left chance ({100 * chance:.0f} %): no {rule}.")
        else:
            say(f"The training left chance ({100 * chance:.0f} %) at {unit} {run['left_chance']}: {rule}.")
    if run["gradient_norms"]:
        rows = [
            [name, *("" if norm is None else f"{norm:.3g}" for norm in norms)]
            for name, norms in run["gradient_norms"].items()
        ]
        _print_rows(["gradient norm", "first quarter", "second", "third", "last"], rows)
