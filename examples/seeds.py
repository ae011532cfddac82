"""The mean over runs that differ by their seed, with its 95 % interval (Student's t).

    python examples/seeds.py runs/four-1 runs/four-2 runs/four-3

Each folder holds the ``eval.json`` of ``d2st eval-classifier`` or of ``d2st eval-base-novel``.
"""

import argparse
import json
from pathlib import Path

from d2st.utils.statistics import over_seeds


def accuracies(folder: Path) -> dict[str, float]:
    """Read the accuracies of a run, by what they are of."""
    found = json.loads((folder / "eval.json").read_text("utf-8"))
    if "harmonic_mean" not in found:
        return {"accuracy": found["results"][0]["accuracy"]}
    parts = {kind: found[kind]["results"][0]["accuracy"] for kind in ("base", "novel")}
    return parts | {"harmonic mean": found["harmonic_mean"]}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("runs", nargs="+", type=Path)
runs = [accuracies(folder) for folder in parser.parse_args().runs]
for name in runs[0]:
    values = [run[name] for run in runs]
    estimate = over_seeds(values)
    width = "-" if estimate.interval is None else f"{100 * estimate.interval:.2f}"
    print(f"{name}: {100 * estimate.mean:.2f} ± {width} ({', '.join(f'{100 * value:.2f}' for value in values)})")
