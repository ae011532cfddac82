"""The mean over runs that differ by their seed, with its 95 % interval (Student's t).

    python examples/seeds.py runs/four-1 runs/four-2 runs/four-3

Each folder holds the ``eval.json`` of ``d2st eval``, of ``d2st eval-classifier`` or of ``d2st eval-base-novel``.
"""

import argparse
import json
from pathlib import Path

from d2st.utils.statistics import over_seeds


def read(folder: Path) -> dict:
    """Read what a run's evaluation wrote."""
    file = folder / "eval.json"
    if not file.is_file():
        raise SystemExit(f"{folder} holds no eval.json; give the folders that evaluations wrote (--out).")
    return json.loads(file.read_text("utf-8"))


def accuracies(found: dict) -> dict[str, float]:
    """Return the accuracies of a run, by what they are of."""
    if "harmonic_mean" in found:
        parts = {kind: found[kind]["results"][0]["accuracy"] for kind in ("base", "novel")}
        return parts | {"harmonic mean": found["harmonic_mean"]}
    if "shot" not in found["results"][0]:
        return {"accuracy": found["results"][0]["accuracy"]}
    return {f"{one['head']}, {one['way']}-way {one['shot']}-shot": one["accuracy"] for one in found["results"]}


FREE = {"seed", "out", "adapter_path", "weights", "device", "workers", "batch_size", "decoder", "compile", "overwrite"}


def settings(found: dict) -> dict:
    """Return the settings of an evaluation, and of the training beside its adapter, that all runs must share."""
    own = found.get("config", {})
    adapter = own.get("adapter_path")
    training = Path(adapter).parent / "train.json" if adapter else None
    trained = json.loads(training.read_text("utf-8")).get("config", {}) if training and training.is_file() else {}
    both = {f"evaluation, {key}": value for key, value in own.items() if key not in FREE}
    return both | {f"training, {key}": value for key, value in trained.items() if key not in FREE}


def model(found: dict) -> list:
    """Return what the trainings must share: adapter, backbone and the part of the data that was tried."""
    return [found.get("base", found).get(key) for key in ("adapter", "backbone", "part")]


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("runs", nargs="+", type=Path)
folders = parser.parse_args().runs
records = [read(folder) for folder in folders]
weights = [record.get("fingerprint", str(folder.resolve())) for record, folder in zip(records, folders, strict=True)]
if len(set(weights)) < len(weights):
    raise SystemExit("Two of the folders are of the same weights; the interval is over trainings, each given once.")
runs = [accuracies(record) for record in records]
if any(run.keys() != runs[0].keys() for run in runs):
    raise SystemExit("The folders are of different evaluations; give those of one kind, of the same heads and shots.")
if any(model(record) != model(records[0]) for record in records):
    told = " and ".join(dict.fromkeys(", ".join(map(str, model(record))) for record in records))
    raise SystemExit(
        f"The folders differ by more than their seeds: {told}. Give trainings of one adapter, and one part."
    )
shared = [settings(record) for record in records]
differ = [key for key in shared[0] if any(key in own and own[key] != shared[0][key] for own in shared)]
if differ:
    raise SystemExit(f"The folders differ by more than their seeds: {', '.join(differ)}. Give trainings of one kind.")
for name in runs[0]:
    values = [run[name] for run in runs]
    estimate = over_seeds(values)
    width = "-" if estimate.interval is None else f"{100 * estimate.interval:.2f}"
    print(f"{name}: {100 * estimate.mean:.2f} ± {width} ({', '.join(f'{100 * value:.2f}' for value in values)})")
