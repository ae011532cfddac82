"""Every head on the rendered benchmark, on the frozen shipped backbone and with D2ST-Adapters: docs/heads.md.

    python benchmarks/rendered_heads.py --out runs/heads

renders the clips of ``d2st demo``, trains and evaluates with the command line, whose commands it prints, and ends with
a table. What is done is not done again, and what was interrupted goes on, when the same command is started again;
several processes can share the work by their ``--heads``. The settings of the training are the demo's. The learning
rate of each head is chosen on the validation classes, by the training of the first seed, and so is the checkpoint of
each training. Test classes are looked at once for each training. Figures are means over seeds.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from d2st.commands import cli
from d2st.data.rendered import RenderConfig, write_benchmark
from d2st.utils.report import percent
from d2st.utils.statistics import over_seeds

PLAIN = ("bi-mhm", "otam", "prototype", "ridge", "logistic")
TRAINED = ("trx", "strm", "hyrsm", "molo", "ta2n", "team", "ts-dcm")
# As wide as the features, as in the release about; its 1152 belong to 2048.
OPTIONS = {"trx": "--head.width 192", "strm": "--head.width 192"}
ADAPTER = "--adapter d2st-local --adapter.ratio 0.5 --adapter.positions 1,2,3"
TRAINING = (
    "--backbone d2st_stills --way 5 --symmetric --class-loss 1 --episodes-per-step 1 --schedule cosine --warmup 0.05 "
    "--weight-decay 0 --flip false --validation-episodes 1000"
)
CLIPS = {"train": 20, "val": 12, "test": 20}  # of a class, as the demo's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/heads", type=Path)
    parser.add_argument("--heads", nargs="*", default=[*PLAIN, *TRAINED], choices=[*PLAIN, *TRAINED])
    parser.add_argument("--episodes", type=int, default=800, help="of each training")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.002, 0.006, 0.018], help="learning rates to try")
    parser.add_argument("--head-rate", type=float, default=0.1, help="of heads with parameters, as a share of it")
    parser.add_argument("--test-episodes", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums, and so the last digits, depend on it
    for done, total in write_benchmark(options.out / "benchmark", RenderConfig(clips=CLIPS)):
        print(f"rendered {done} of {total} clips", flush=True)
    for head in options.heads:
        for system in systems(options, head):
            system.run()
    print(table(options))


@dataclass(frozen=True)
class System:
    """A head with an adapter, or on the frozen backbone.

    Args:
        options: of the command line.
        head: its name.
        adapted: with adapters.
    """

    options: argparse.Namespace
    head: str
    adapted: bool

    @property
    def data(self) -> str:
        """Options of every command."""
        benchmark = self.options.out / "benchmark"
        return f"--data {benchmark}/clips --split {benchmark}/split.yaml --device cpu"

    @property
    def trains(self) -> bool:
        """Whether it has parameters."""
        return self.adapted or self.head in TRAINED

    def folder(self, rate: float, seed: int) -> Path:
        """Where a training is."""
        return self.options.out / f"{self.head}-{'adapted' if self.adapted else 'frozen'}" / f"{rate}" / f"seed{seed}"

    def train(self, rate: float, seed: int) -> dict:
        """Train, and give what ``train.json`` holds."""
        episodes, folder = self.options.episodes, self.folder(rate, seed)
        line = f"train {self.data} {TRAINING} --lr {rate} --episodes {episodes} --validate-every {-(-episodes // 3)}"
        line += f" {ADAPTER if self.adapted else '--adapter none'} --head {self.head} {OPTIONS.get(self.head, '')}"
        if self.head in TRAINED:
            line += f" --head-lr {self.options.head_rate}"
        if self.adapted and self.head != "molo":  # which rebuilds the frames
            line += f" --prefix-crops 4 --prefix-folder {self.options.out}/prefix"
        return run_command(f"{line} --seed {seed} --out {folder}", folder / "train.json")

    def rate(self) -> float:
        """Choose the learning rate on the validation classes."""
        rates, first = self.options.rates, self.options.seeds[0]
        return max(rates, key=lambda rate: self.train(rate, first)["best_accuracy"]) if len(rates) > 1 else rates[0]

    def run(self) -> list[dict]:
        """Train what there is to train, and evaluate; gives what each ``eval.json`` holds."""
        test = f"eval {self.data} --way 5 --shot 1,5 --episodes {self.options.test_episodes} --batch-size 32"
        if not self.trains:
            out = self.options.out / f"{self.head}-frozen"
            return [run_command(f"{test} --backbone d2st_stills --head {self.head} --out {out}", out / "eval.json")]
        rate, found = self.rate(), []
        for seed in self.options.seeds:
            adapter = self.train(rate, seed)["adapter"]
            out = self.folder(rate, seed) / "test"
            found.append(run_command(f"{test} --adapter {adapter} --out {out}", out / "eval.json"))
        return found


def systems(options: argparse.Namespace, head: str) -> list[System]:
    """List what a row of the table compares."""
    return [System(options, head, adapted) for adapted in (False, True)]


def run_command(line: str, result: Path) -> dict:
    """Run ``d2st`` and give what it wrote; nothing is run where it is there, by the same command."""
    said = result.with_name(f"{result.stem}.command")
    if not result.exists():
        print(f"d2st {line}", flush=True)
        if code := cli.main(shlex.split(line)):
            sys.exit(code)
        said.write_text(line)
    elif said.exists() and said.read_text() != line:
        sys.exit(f"{result} was made by another command: d2st {said.read_text()}\nGive another --out.")
    return json.loads(result.read_text())


def table(options: argparse.Namespace) -> str:
    """Rows heads; columns frozen and adapted, 1-shot and 5-shot, and the learning rates."""
    lines = [
        "| head | frozen, 1-shot | 5-shot | learning rate | adapted, 1-shot | 5-shot | learning rate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for head in options.heads:
        cells = []
        for system in systems(options, head):
            cells += [*accuracies(system.run()), f"{system.rate():g}" if system.trains else ""]
        lines.append(f"| {head} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def accuracies(runs: Sequence[dict]) -> list[str]:
    """Average each shot over seeds; of one run the interval is that of its episodes."""
    found = []
    for results in zip(*(run["results"] for run in runs), strict=True):
        estimate = over_seeds([result["accuracy"] for result in results])
        found.append(percent(estimate.mean, estimate.interval if len(runs) > 1 else results[0]["interval"]))
    return found


if __name__ == "__main__":
    main()
