"""Run trainings and tests as commands of their own, several side by side; what is done is not done again."""

import itertools
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import D2STError
from ..training.run_folder import LOCK
from ..utils.files import is_held, write_json
from ..utils.provenance import read_results
from ..utils.signals import CHILD, Stop
from ..utils.versioned_json import parse, read_bytes
from .cells import Run

COMMANDS, LOG, RESULT = "commands.json", "log.txt", "test/eval.json"
# Flags that say where something lies or what computes it, and not what.
FREE = {"--data", "--out", "--workers", "--device", "--decoder", "--prefix-folder"}
PATHS = {"--split", "--adapter"}  # a name, or a path that ends in one


def finished(run: Run, out: Path) -> bool:
    """Say whether the test of a run is there, on whatever machine it was done.

    Raises:
        D2STError: the folder holds a run of other commands.
    """
    folder = out / run.name
    if (folder / COMMANDS).exists():
        there = _read_commands(folder / COMMANDS)
        if [_without_places(line) for line in there] != [_without_places(line) for line in run.lines]:
            raise D2STError(
                f"{folder} holds a run of other commands ({folder / COMMANDS}); give another --out, or remove that "
                f"folder."
            )
    return (folder / RESULT).exists()


def _read_commands(file: Path) -> list[str]:
    """Read the command lines that were run in a folder."""
    what, remedy = "record of commands", "give another --out, or remove its folder"
    lines = parse(read_bytes(file, what=what, remedy=remedy), f"The {what} '{file}'", remedy)
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise D2STError(f"The {what} '{file}' is no list of command lines; {remedy}.")
    return lines


def count_commands(runs: Sequence[Run]) -> str:
    """Count the commands of runs: "Trainings: 96, tests: 98"."""
    return f"Trainings: {sum(run.train is not None for run in runs)}, tests: {len(runs)}"


def _without_places(line: str) -> list[str]:
    """Split a command line, and leave out what does not change its result."""
    try:
        words = shlex.split(line)
    except ValueError:  # an open quote: no line that was written here
        return [line]
    pairs = itertools.pairwise(["", *words])
    return [Path(word).name if before in PATHS else word for before, word in pairs if not {before, word} & FREE]


def execute(runs: Sequence[Run], out: Path, lanes: int = 1, threads: int | None = None) -> dict[str, str]:
    """Execute what is left of the runs.

    Args:
        runs: each at most once.
        out: folder of all runs. Each has a folder with its commands, log, training run and test.
        lanes: runs side by side.
        threads: of PyTorch in each; None leaves it to PyTorch.

    Returns:
        Runs that failed: name -> the last line they said. The others go on without them.

    Raises:
        SystemExit: after SIGINT or SIGTERM; trainings that were under way have saved their state.
    """
    left = [run for run in runs if not finished(run, out)]
    print(f"{count_commands(runs)}; done before: {len(runs) - len(left)}.", flush=True)
    failed: dict[str, str] = {}
    lock, begun = threading.Lock(), time.monotonic()
    with Stop() as stop, ThreadPoolExecutor(lanes) as pool:

        def work(run: Run) -> None:
            if stop.signal:
                return
            start = time.monotonic()
            failure = _run_commands(run, out / run.name, threads, stop)
            if stop.signal:
                return
            if not failure and not (out / run.name / RESULT).exists():
                failure = f"its test left no {RESULT}"
            with lock:
                if failure:
                    failed[run.name] = failure
                done = f"failed: {failure} ({out / run.name / LOG})" if failure else _accuracies(out / run.name)
                seconds, minutes = time.monotonic() - start, (time.monotonic() - begun) / 60
                print(f"{run.name}: {done}, {seconds:.0f} s ({minutes:.0f} min in all)", flush=True)

        for future in [pool.submit(work, run) for run in left]:
            future.result()
    if stop.signal:
        print(f"Stopped; start the same command again to go on. Runs are in {out}.")
        raise SystemExit(128 + stop.signal)
    return failed


def _run_commands(run: Run, folder: Path, threads: int | None, stop: Stop) -> str:
    """Run the commands of a run; returns the last line of one that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / COMMANDS, run.lines)
    environment = os.environ | {CHILD: "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    _wait(run, folder, stop)
    for command in (run.train, run.test):
        if command is None or stop.signal:
            continue
        with (folder / LOG).open("a", encoding="utf-8") as log:
            # A session of its own: Ctrl-C reaches this process alone, which tells the others once.
            arguments = [sys.executable, "-m", "d2st", *command]
            with subprocess.Popen(
                arguments,
                stdin=subprocess.PIPE,  # by its end the process notices that of this one
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            ) as process:
                while process.poll() is None:
                    if stop.signal:
                        process.terminate()
                        process.wait()
                    time.sleep(0.2)
        if process.returncode and not stop.signal:
            lines = (folder / LOG).read_text("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else f"exit code {process.returncode}"
    return ""


def _wait(run: Run, folder: Path, stop: Stop) -> None:
    """Wait for the end of a training that an earlier start left in the folder, or that another one began."""
    if is_held(folder, LOCK):
        print(f"{run.name}: a training is at work in {folder}; waiting for its end.", flush=True)
    while not stop.signal and is_held(folder, LOCK):
        time.sleep(0.5)


def _accuracies(folder: Path) -> str:
    named = []
    for result in read_results(folder / RESULT)["results"]:
        name = f"{result['shot']}-shot" if "shot" in result else f"Acc@{result['top']}"
        named.append(f"{name} {100 * result['accuracy']:.1f} %")
    return ", ".join(named)
