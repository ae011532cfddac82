"""Every head on the rendered benchmark, on the frozen shipped backbone and with D2ST-Adapters: docs/heads.md.

    python benchmarks/rendered_heads.py --out runs/heads --episodes 1500

renders the clips of ``d2st demo``, then trains and evaluates with the command line, whose commands it
prints, and ends with a table. What is done is not done again, and what was interrupted goes on, when the same command
is started again; several can share the work by their ``--heads``. The settings of the training are the demo's. The
learning rate of a head with parameters, where several are given, is chosen on the validation classes on the frozen
backbone and kept for the adapted one; so is the checkpoint of each run. Test classes are looked at once for each cell.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path

import torch

from d2st.commands import cli
from d2st.data.rendered import RenderConfig, write_benchmark
from d2st.utils.report import percent

PLAIN, TRAINED = ("bi-mhm", "otam", "prototype"), ("trx", "hyrsm", "molo")
OPTIONS = {"trx": " --head.width 192"}  # as wide as the features, as in the release about; its 1152 belong to 2048
ADAPTER = "--adapter d2st --adapter.ratio 0.5 --adapter.positions 1,2,3 --class-loss 1"
TRAINING = (
    "--backbone d2st_stills --way 5 --symmetric --episodes-per-step 1 --lr 0.006 --schedule cosine --warmup 0.05 "
    "--weight-decay 0 --flip false --validation-episodes 1000"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/heads")
    parser.add_argument("--heads", nargs="*", default=[*PLAIN, *TRAINED], choices=[*PLAIN, *TRAINED])
    parser.add_argument("--episodes", type=int, default=1500, help="of each training")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1], help="of heads, as shares of the adapters'")
    parser.add_argument("--test-episodes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums, and so the last digits, depend on it
    out, counts = Path(options.out), {"train": 20, "val": 12, "test": 20}  # clips of a class, as the demo's
    for done, total in write_benchmark(out / "benchmark", RenderConfig(clips=counts, seed=options.seed)):
        print(f"rendered {done} of {total} clips", flush=True)
    for head in options.heads:
        run(out, options, head)
    print(table(out))


def run(out: Path, options: argparse.Namespace, head: str) -> None:
    """Train what there is to train of a head, and evaluate it on the test classes."""
    data = f"--data {out}/benchmark/clips --split {out}/benchmark/split.yaml --device cpu --seed {options.seed}"
    every = f"--episodes {options.episodes} --validate-every {max(1, options.episodes // 3)}"
    train = f"train {data} {TRAINING} {every} --head {head}{OPTIONS.get(head, '')}"
    test = f"eval {data} --way 5 --shot 1,5 --episodes {options.test_episodes} --batch-size 32"

    def alone(rate: float) -> dict:
        """The head trained on the frozen backbone."""
        folder = out / f"{head}-frozen-{rate}"
        return run_command(f"{train} --adapter none --head-lr {rate} --out {folder}", folder / "train.json")

    rate = options.rates[0]
    if head in TRAINED and len(options.rates) > 1:
        rate = max(options.rates, key=lambda rate: alone(rate)["best_accuracy"])
    folder, share = out / f"{head}-adapted-{rate}", "" if head in PLAIN else f" --head-lr {rate}"
    run_command(f"{train} {ADAPTER}{share} --out {folder}", folder / "train.json")
    run_command(f"{test} --adapter {folder}/best --out {out}/{head}-adapted", out / f"{head}-adapted" / "eval.json")
    if head in TRAINED:
        model, frozen = f"--adapter {alone(rate)['adapter']}", f"{head}-frozen"
    else:  # all on one encoding
        model, frozen = f"--backbone d2st_stills --heads {','.join(PLAIN)}", "frozen"
    run_command(f"{test} {model} --out {out}/{frozen}", out / frozen / "eval.json")


def run_command(line: str, result: Path) -> dict:
    """Run ``d2st`` and give what it wrote; nothing is run where it is there."""
    if not result.exists():
        print(f"d2st {line}", flush=True)
        if code := cli.main(shlex.split(line)):
            sys.exit(code)
    return json.loads(result.read_text())


def table(out: Path) -> str:
    """Rows heads; columns frozen and adapted, 1-shot and 5-shot. A dash is what was not run."""
    lines = ["| head | frozen, 1-shot | 5-shot | adapted, 1-shot | 5-shot |", "| --- | ---: | ---: | ---: | ---: |"]
    for head in [*PLAIN, *TRAINED]:
        cells = []
        for folder in ("frozen" if head in PLAIN else f"{head}-frozen", f"{head}-adapted"):
            file = out / folder / "eval.json"
            results = json.loads(file.read_text())["results"] if file.exists() else []
            cells += [percent(r["accuracy"], r["interval"]) for r in results if r["head"] == head] or ["-", "-"]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
