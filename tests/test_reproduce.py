"""``d2st reproduce``: cells to commands, commands to results, results to tables."""

import dataclasses
import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from small import options

from d2st.commands import cli
from d2st.data.benchmarks import load
from d2st.data.rendered import LOOKS, RenderConfig, split
from d2st.errors import D2STError
from d2st.factory.encoder import create_encoder
from d2st.heads import HEADS
from d2st.reproduce import ReproduceConfig, paper, reproduce
from d2st.reproduce import mini as small_version
from d2st.reproduce.cells import Cell, Run, cells, chosen, run_of
from d2st.reproduce.mini_report import report
from d2st.reproduce.run import RESULT, execute, finished
from d2st.reproduce.table import MISSING, entries, values_of
from d2st.utils.files import is_held
from d2st.utils.statistics import Estimate, over_seeds, pooled

EVERY = [cell for name in paper.TABLES for cell in cells(paper.read(name))]
ONE = next(cell for cell in EVERY if cell.name == "1/D2ST-Adapter (ViT-B)/SSv2-Full 1-shot")
FULL_SHOT = [cell for cell in EVERY if "top" in cell.setting]


@pytest.fixture
def parsed(monkeypatch):
    """Configs that the commands would have run with."""
    seen = []
    monkeypatch.setattr("d2st.commands.train.train", lambda config: seen.append(config) or {})
    monkeypatch.setattr("d2st.commands.evaluate.evaluate", lambda config: seen.append(config) or {})
    return seen


def result(folder, shots, **more):
    """Leave a test's result where a run would."""
    (folder / "test").mkdir(parents=True, exist_ok=True)
    content = {"results": [{"shot": shot, "accuracy": accuracy, "interval": 0.004} for shot, accuracy in shots.items()]}
    (folder / "test" / "eval.json").write_text(json.dumps(content | more))


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_the_verbs_take_every_command(parsed, variant, tmp_path):
    runs = {}
    for cell in EVERY:
        if "shot" in cell.setting:
            run = run_of(cell, variant, 18, tmp_path / "data", tmp_path)
            runs.setdefault(run.name, set()).add(run)
    assert all(len(same) == 1 for same in runs.values()), "two trainings share a folder"
    once = {tuple(flag for flag in run.train if "seed18" not in flag) for (run,) in runs.values()}
    assert len(once) == len(runs), "a training is done twice"
    if variant == "released":  # Tables 7 and 8 show numbers of Table 1 again
        again = [c for c in EVERY if c.row == "2,4,4 & 8,2,2" and c.column in ("SSv2-Full", "8 frames")]
        names = {run_of(c, variant, 18, tmp_path, tmp_path).name for c in [ONE, *again]}
        assert len(again) == 2 and len(names) == 1
    # Parsing takes long, so the same kind of command is tried once.
    kinds = {(run.train[4], *(f for f in run.train if f.startswith("--"))): run for (run,) in runs.values()}
    for run in kinds.values():
        train, test = (shlex.split(line)[1:] for line in run.lines)
        (tmp_path / run.name / "best").mkdir(parents=True)  # eval looks whether it is there
        assert cli.main(train) == 0 and cli.main(test) == 0
        trained, tested = parsed[-2:]
        assert tested.adapter_path == f"{trained.out}/best" and tested.head is None  # the one that was trained
        assert (tested.sampling, tested.transforms, tested.split) == (
            trained.sampling,
            trained.transforms,
            trained.split,
        )
        shots = (tested.shot,) if isinstance(tested.shot, int) else tested.shot
        assert shots == (trained.shot,) if variant == "paper" else trained.shot == 1 and {1, 5} <= set(shots)


def test_full_shot_cells_are_trained_and_tested_by_recipes_of_their_own(monkeypatch, tmp_path):
    seen = []
    for verb in ("train_classifier.train_full_shot", "evaluate_classifier.evaluate_full_shot"):
        monkeypatch.setattr(f"d2st.commands.{verb}", lambda config: seen.append(config) or {})
    assert {cell.name.split("/")[1] for cell in FULL_SHOT} >= {"ST-Adapter", "D2ST-Adapter"} and len(FULL_SHOT) == 10
    for cell in FULL_SHOT:
        run = run_of(cell, "released", 18, tmp_path / "data", tmp_path)
        (tmp_path / run.name / "best").mkdir(parents=True)
        for line in run.lines:
            assert cli.main(shlex.split(line)[1:]) == 0
        trained, tested = seen[-2:]
        assert trained.adapter.name == cell.setting["method"] and trained.head == tested.head == "linear"
        assert trained.split == tested.split == cell.setting["dataset"] and tested.part == "val"
        assert tested.adapter_path == f"{trained.out}/best" and trained.validate_every == 0
        result = {"results": [{"top": 1, "accuracy": 0.82, "interval": 0.01}, {"top": 5, "accuracy": 0.95}]}
        (tmp_path / run.name / "test").mkdir()
        (tmp_path / run.name / "test" / "eval.json").write_text(json.dumps(result))
    entry, *_ = entries(
        FULL_SHOT[:1], {FULL_SHOT[0]: [run_of(FULL_SHOT[0], "paper", 18, tmp_path, tmp_path)]}, tmp_path
    )
    assert entry["ours"] == pytest.approx(82) and entry["interval"] == pytest.approx(1) and entry["paper"] is None


def test_only_chooses_cells():
    assert {cell.table for cell in chosen(EVERY, ["4/"])} == {"4"} == {cell.table for cell in chosen(EVERY, ["4"])}
    assert {cell.table for cell in chosen(EVERY, ["1/D2ST"])} == {"1"}, "not of Table 11"
    assert {cell.column for cell in chosen(EVERY, ["2,2/8 frames"])} == {"8 frames"}
    found = chosen(EVERY, ["4/d2st*ssv2"])
    assert {(cell.table, cell.row) for cell in found} == {("4", "D2ST-Adapter")} and len(found) == 2
    with pytest.raises(D2STError, match="names no cell"):
        chosen(EVERY, ["D3ST"])


def test_dry_run_prints_lines_to_paste(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["reproduce", "4,6", "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    lines = [line for line in said if line.startswith("d2st ")]
    assert len(lines) == 2 * 14 == len(set(lines)), "D2ST with Bi-MHM is trained once for both tables"
    assert any("--adapter" not in line or "methods/full.yaml" in line for line in lines)
    assert cli.main(["reproduce", "4/D2ST*Kinetics 1-shot", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("d2st train") == 1
    assert "# 6/OTAM: MoLo: no recipe, the paper's number is shown alone" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["3"], "no table '3'"),
        (["4"], "where the videos are"),
        (["2"], "where the videos are"),
        (["4", "--data", "nowhere"], "no folder nowhere. Say where"),
        (["6/OTAM: MoLo", "--data", "x"], "can be run"),
        (["4", "--episodes", "100"], "--episodes is for the small version (reproduce mini) and would change nothing"),
        (["all", "--test-episodes", "100"], "--test-episodes is for the small version"),
        (["mini/4", "--variant", "paper"], "--variant is for the paper's own tables"),
        (["mini", "--data", "x"], "--data is for the paper's own tables"),
        ([], "what"),
    ],
)
def test_bad_input_is_a_sentence(arguments, sentence, capsys):
    assert cli.main(["reproduce", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_an_incomplete_split_is_refused_before_any_training(tmp_path):
    for part in load("ucf101").classes.values():
        for name in part[1:]:
            (tmp_path / "ucf101" / name).mkdir(parents=True)
            for n in range(7):
                (tmp_path / "ucf101" / name / f"v_{name}_g0{n}_c01.avi").touch()
    config = ReproduceConfig("1", data=str(tmp_path), out=str(tmp_path / "runs"), only="d2st*rn50*ucf101")
    with pytest.raises(D2STError, match=r"1 of 70 train classes .*ApplyEyeMakeup.*check-data ucf101"):
        reproduce(config)
    assert not (tmp_path / "runs").exists()


def test_an_absent_data_set_is_named_with_its_folders(tmp_path):
    with pytest.raises(D2STError, match=r"no folder \S+/ssv2 or \S+/ssv2-full, no \S+/kinetics or \S+/kinetics100; "):
        reproduce(ReproduceConfig("4", data=str(tmp_path), out=str(tmp_path / "runs")))
    (tmp_path / "ssv2").mkdir()
    with pytest.raises(D2STError, match=r"no folder \S+/kinetics or \S+/kinetics100; .*--only '4/\*SSv2-Full'"):
        reproduce(ReproduceConfig("4", data=str(tmp_path), out=str(tmp_path / "runs")))
    with pytest.raises(D2STError, match="holds no videos"):
        reproduce(ReproduceConfig("4", data=str(tmp_path), out=str(tmp_path / "runs"), only="4/*SSv2-Full"))


def test_results_are_collected_on_another_machine(tmp_path):
    """Other places, workers and device are the same run; another precision is none."""
    there = run_of(ONE, "released", 18, tmp_path / "store", tmp_path / "x", ("--device", "cuda", "--workers", "8"))
    assert there.train[-6:-2] == ("--device", "cuda", "--workers", "8")
    result(tmp_path / there.name, {1: 0.66, 5: 0.81})
    (tmp_path / there.name / "commands.json").write_text(json.dumps(there.lines))
    written = reproduce(ReproduceConfig("1", out=str(tmp_path), only=ONE.name))  # needs no videos
    assert [cell["ours"] for cell in written["tables"]["1"]] == [66]
    with pytest.raises(D2STError, match="run of other commands"):
        reproduce(ReproduceConfig("1", out=str(tmp_path), only=ONE.name, precision="bf16"))
    for out in (tmp_path / "a", tmp_path / "b"):
        cell = cells(small_version.tables()[0][1])[-1]
        run = small_version.mini_run(cell, 0, ReproduceConfig("mini", out=str(out), workers=len(out.name)))
        (tmp_path / run.name).mkdir(parents=True, exist_ok=True)
        assert not finished(run, tmp_path)
        (tmp_path / run.name / "commands.json").write_text(json.dumps(run.lines))
    config = ReproduceConfig("mini", out=str(tmp_path), test_episodes=10)
    with pytest.raises(D2STError, match="run of other commands"):
        finished(small_version.mini_run(cell, 0, config), tmp_path)


def test_a_number_on_other_clips_has_a_note(tmp_path, capsys):
    found = [c for c in EVERY if c.table == "4" and c.row in ("ST-Adapter", "D2ST-Adapter") and c.setting["shot"] == 1]
    runs = {cell: [run_of(cell, "released", 18, tmp_path, tmp_path)] for cell in found}
    lost = ["Part 'test' of Kinetics-100 has 2317 clips here and 2400 as published."]
    for cell, (run,) in runs.items():
        kinetics = cell.setting["dataset"] == "kinetics100"
        bad = [{"id": "a.mp4", "reason": "no frames"}] if kinetics and cell.row == "ST-Adapter" else []
        result(tmp_path / run.name, {1: 0.5}, problems=lost if kinetics else [], bad_clips=bad)
    reproduce(ReproduceConfig("4", out=str(tmp_path), only=tuple(cell.name for cell in found)))
    text = (tmp_path / "table4.md").read_text()
    assert "| ST-Adapter | SSv2-Full 1-shot | 52.2 | 50.0 | 0.4 |" in text
    assert "| ST-Adapter | Kinetics 1-shot | 73.0 | 50.0 [1] |" in text
    assert "| D2ST-Adapter | Kinetics 1-shot | 75.8 | 50.0 [2] |" in text
    assert f"\n\n[1] Not on the published clips: {lost[0]} 1 test clip could not be read.\n" in text
    assert text.endswith(f"\n\n[2] Not on the published clips: {lost[0]}\n") and text in capsys.readouterr().out
    written = json.loads((tmp_path / "table4.json").read_text())["cells"]
    assert [cell["problems"] for cell in written if cell["row"] == "D2ST-Adapter"] == [[], lost]


def test_tables_show_what_is_there_and_what_is_missing(tmp_path, monkeypatch, capsys):
    """Results of some cells are there; the others' commands fail here, for want of data."""
    (tmp_path / "ssv2").mkdir()
    (tmp_path / "kinetics").mkdir()
    monkeypatch.setattr("d2st.reproduce._refuse_incomplete", lambda *_: None)
    monkeypatch.setattr("d2st.reproduce.run._run_commands", lambda run, *_: "no videos here")
    config = ReproduceConfig("4", data=str(tmp_path), out=str(tmp_path), seeds=(1, 2, 3))
    runs = {
        c: [run_of(c, "released", s, tmp_path / "ssv2", tmp_path) for s in (1, 2, 3)] for c in EVERY if c.table == "4"
    }
    for cell, of_cell in runs.items():
        if cell.row == "ST-Adapter" and cell.setting["dataset"] == "ssv2-full":
            for run, accuracy in zip(of_cell, (0.51, 0.52, 0.53), strict=True):
                result(tmp_path / run.name, {1: accuracy, 5: 0.7})
    done = reproduce(config)
    assert len(done["failed"]) == 3 * 9 and set(done["failed"].values()) == {"no videos here"}
    text = (tmp_path / "table4.md").read_text()
    # mean 52, s = 1 point, t(2) = 4.303: 4.303 / sqrt(3) = 2.5
    assert "| ST-Adapter | SSv2-Full 1-shot | 52.2 | 52.0 | 2.5 | -0.2 | 3 |" in text
    assert text.count(f"| {MISSING} |") == 18
    written = json.loads((tmp_path / "table4.json").read_text())
    assert len(written["cells"]) == 20 and written["config"]["what"] == "4" and "versions" in written
    assert "no videos here" in capsys.readouterr().out


def test_runs_are_done_once_and_go_on_after_a_failure(small, tmp_path, capsys):
    flags = options(small, way=3, shot=1, episodes=5, out=tmp_path / "good" / "test")
    test = ("eval", *(text for key, value in flags.items() for text in (f"--{key}", str(value))))
    good, bad = Run("good", None, test, 0), Run("bad", ("train", "--data", "nowhere"), ("--version",), 0)
    failed = execute([good, bad], tmp_path, lanes=2, threads=1)
    assert list(failed) == ["bad"] and "'nowhere' does not exist" in failed["bad"]
    assert json.loads((tmp_path / "good" / "commands.json").read_text()) == good.lines
    assert finished(good, tmp_path) and not finished(bad, tmp_path)
    with pytest.raises(D2STError, match="run of other commands"):
        finished(Run("good", None, ("--help",), 0), tmp_path)
    assert execute([good], tmp_path) == {}
    assert "Trainings: 0, tests: 1; done before: 1." in capsys.readouterr().out


def test_a_signal_stops_the_trainings_with_their_state_saved(small, tmp_path, capsys):
    out = tmp_path / "long"
    flags = options(small, way=3, episodes=100_000, validate_every=0, out=out)
    train = ("train", *(text for key, value in flags.items() for text in (f"--{key}", str(value))))

    def interrupt():
        while not (out / "metrics.jsonl").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as stopped:
        execute([Run("long", train, ("--version",), 0)], tmp_path, threads=1)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (out / "last.safetensors").exists() and not (out / "train.json").exists()
    assert "start the same command again" in capsys.readouterr().out


ORPHAN = """
import json, sys
from pathlib import Path
from d2st.reproduce.cells import Run
from d2st.reproduce.run import execute
execute([Run("long", tuple(json.loads(sys.argv[1])), ("--version",), 0)], Path(sys.argv[2]), threads=1)
"""


def test_a_killed_reproduction_takes_its_training_with_it(small, tmp_path):
    out = tmp_path / "long"
    flags = options(small, way=3, episodes=100_000, validate_every=0, out=out, checkpoint_minutes=100)
    train = ["train", *(text for key, value in flags.items() for text in (f"--{key}", str(value)))]
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN, json.dumps(train), str(tmp_path)])
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert is_held(out, "run.lock"), "the training is not at work"
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while is_held(out, "run.lock") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_held(out, "run.lock"), "the training goes on without what started it"
    assert (out / "last.safetensors").exists(), "it is stopped as by Ctrl-C, with its state saved"


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(2)
"""


def test_a_training_that_is_still_at_work_is_waited_for_and_is_no_failure(tmp_path, capsys):
    out = tmp_path / "run"
    out.mkdir()
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(out / "run.lock")], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    failed = execute([Run("run", ("--version",), ("--help",), 0)], tmp_path)
    assert holder.wait(1) == 0, "it went on before the training had ended"
    assert failed == {"run": "its test left no test/eval.json"}
    assert f"run: a training is at work in {out}; waiting for its end." in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    ["[]", "{", "5", '{"results": 5}', '{"results": [5]}', '{"results": [{"shot": 1, "accuracy": "x"}]}', "\xff"],
)
def test_damaged_results_are_told(tmp_path, content):
    run = Run("run", None, ("--version",), 0)
    cell = Cell("4", "D2ST", "SSv2", 50.0, setting={"shot": 1})
    (tmp_path / "run" / "test").mkdir(parents=True)
    (tmp_path / "run" / "test" / "eval.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(D2STError, match=r"The result '.*eval.json' .*remove it"):
        values_of(cell, [run], tmp_path)
    (tmp_path / "run" / "commands.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(D2STError, match=r"run of other commands|record of commands '.*commands.json'"):
        finished(run, tmp_path)


def test_seeds_that_do_not_differ_have_the_interval_over_episodes(tmp_path):
    cell = Cell("1", "row", "1-shot", 50.0, setting={"shot": 1})
    runs = [Run(f"seed{seed}", None, (), seed) for seed in range(3)]
    for run in runs:
        path = tmp_path / run.name / RESULT
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"results": [{"shot": 1, "accuracy": 0.9, "interval": 0.004}]}))
    assert values_of(cell, runs, tmp_path)[1] == Estimate(90.0, pytest.approx(0.4))


def test_the_small_version_has_the_papers_numbers():
    tables, leads = small_version.tables()
    by_name = {table["table"]: table for table in tables}
    for name, own in (("4", "4"), ("5", "5"), ("7", "7"), ("9", "9"), ("10", "10")):
        theirs = [row["numbers"][0] for row in paper.read(name)["rows"]]
        assert [row["numbers"][0] for row in by_name[own]["rows"] if row["numbers"][0]] == theirs, name
    eight = [row["numbers"][0] for row in by_name["8"]["rows"] if not row["name"].endswith("ours")]
    assert eight == [number for row in paper.read("8")["rows"] for number in row["numbers"]]
    kinetics = {r["name"]: r["numbers"][2] for name in ("4", "5") for r in paper.read(name)["rows"]}
    for row in by_name["spatial"]["rows"]:
        assert row["numbers"][0] == kinetics.get(row["name"])
    names = {cell.name for table in tables for cell in cells(table)}
    assert all(f"{name}/1-shot" in names for lead in leads for name in lead["plus"] + lead["minus"])
    assert small_version.TRAINED in names


def test_the_small_version_counts_what_it_runs(capsys):
    reproduce(ReproduceConfig("mini", dry_run=True))
    lines = capsys.readouterr().out.splitlines()
    trainings, tests = (sum(line.startswith(f"d2st {verb}") for line in lines) for verb in ("train", "eval"))
    assert (trainings, tests) == (111, 113) and lines[-1].startswith("# Trainings: 111, tests: 113;")


def test_rows_of_a_length_of_their_own_keep_it(capsys):
    reproduce(ReproduceConfig("mini", only=("length", "4/ST"), episodes=7, seeds=0, dry_run=True))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("d2st train")]
    found = [re.findall(r"--episodes (\d+)", line) for line in lines]
    assert found == [["7"], *[["200"]] * 4, *[["2000"]] * 4]


def test_the_small_version_says_with_which_versions_its_cells_were_made(tmp_path):
    config = ReproduceConfig("mini", out=str(tmp_path))
    runs = [Run(f"seed{seed}", None, (), seed) for seed in range(3)]
    for run, version, git in zip(runs, ("0.1", "0.2", "0.2"), ({"commit": "0123456789ab"}, None, None), strict=True):
        path = tmp_path / run.name / RESULT
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"results": [], "versions": {"d2st": version, "torch": "2.9"}, "git": git}))
    said = small_version._facts(config, runs, {})
    assert "with d2st 0.1 (0123456789), PyTorch 2.9 and d2st 0.2 (installed), PyTorch 2.9, on " in said


def test_every_cell_of_the_small_version_can_be_built(parsed, tmp_path):
    for table in small_version.tables()[0]:
        for cell in cells(table):
            run = small_version.mini_run(cell, 0, ReproduceConfig("mini", out=str(tmp_path)))
            if run.train is None or table["table"] in ("rates", "length"):
                continue
            assert cli.main(list(run.train)) == 0
            config = parsed.pop()
            encoder, frames = create_encoder(config)
            assert encoder(torch.zeros(1, frames, 3, 64, 64)).shape == (1, frames, 192), cell.name
            assert config.head.name in HEADS and encoder.trainable_parameters()


def test_the_report_says_which_orders_hold():
    tables = [t for t in small_version.tables()[0] if t["table"] == "5"]
    found = cells(tables[0])
    means = {"aDSTA-S": 50.0, "aDSTA-T": 60.0, "aDSTA-Uniform": 60.3, "aDSTA-S & aDSTA-T": 55.0}
    values = {cell.name: {seed: means[cell.row] + seed - 1 for seed in range(3)} for cell in found}
    page, judged = report("", tables, [], found, values, {cell.name: {} for cell in found}, {}, {})
    text = str(page)
    said = {(pair["better"], pair["worse"]): pair["verdict"] for pair in judged["orders"]}
    assert said["aDSTA-T", "aDSTA-S"] == "holds" and said["aDSTA-S & aDSTA-T", "aDSTA-T"] == "reversed"
    assert said["aDSTA-T", "aDSTA-Uniform"] == "cannot be told apart" and len(said) == 6
    assert judged["spread"] == {"motions, D2ST-Adapter": {"deviation": 1.0, "freedom": 8, "alike": 1.0}}
    assert "| 5 | 3 | 2 | 1 | 0 |" in text and "| motions, D2ST-Adapter | 1.00 | 8 | 1 | 1.9 |" in text
    values[found[0].name] = {}
    page, judged = report("", tables, [], found, values, {cell.name: {} for cell in found}, {}, {})
    text = str(page)
    assert "| aDSTA-S | 55.2 | missing |" in text and "| 5 | 0 | 2 | 1 | 3 |" in text
    values = {cell.name: {0: 50.0 + i, 1: 52.0 + i} for i, cell in enumerate(found)}
    values[found[1].name] = values[found[0].name]  # another training that comes to the same
    _, judged = report("", tables, [], found, values, {cell.name: {} for cell in found}, {}, {})
    assert judged["spread"]["motions, D2ST-Adapter"]["freedom"] == 4
    twice = [*found, dataclasses.replace(found[0], row="the same training again")]
    values[twice[-1].name] = values[found[0].name]
    _, judged = report("", tables, [], twice, values, {cell.name: {} for cell in twice}, {}, {})
    assert judged["spread"]["motions, D2ST-Adapter"]["freedom"] == 4
    values = {cell.name: dict.fromkeys(range(3), 50.0 + i) for i, cell in enumerate(found)}
    page, judged = report("", tables, [], found, values, {cell.name: {} for cell in found}, {}, {})
    text = str(page)
    assert {pair["verdict"] for pair in judged["orders"]} == {"cannot be told apart"} and "± unknown" in text


def _report(names: list[str], values_of: dict) -> tuple[str, dict]:
    tables = [table for table in small_version.tables()[0] if table["table"] in names]
    found = [cell for table in tables for cell in cells(table)]
    values = {cell.name: dict(enumerate(values_of.get(cell.row, []))) for cell in found}
    page, judged = report("", tables, [], found, values, {cell.name: {} for cell in found}, {}, {})
    return str(page), judged


TABLE_4 = {
    "Frozen backbone": [21.7],
    "Full Fine-tuning": [25.3, 25.6, 25.2],
    "Vanilla-Adapter": [24.6, 24.6, 24.9],
    "ST-Adapter": [89.8, 88.8, 90.1],
    "DST-Adapter": [90.6, 90.9, 90.1],
    "D2ST-Adapter": [91.4, 89.0, 91.0],
    "D2ST-Adapter, ours": [92.2, 91.0, 92.6],
}


def test_what_mixes_no_frames_does_not_make_the_others_look_certain():
    """Near the frozen backbone trainings scatter by 0.2, off it by 0.7: pooled, DST would lead ST by 1.0 ± 0.95."""
    text, judged = _report(["4"], TABLE_4)
    (pair,) = [p for p in judged["orders"] if (p["better"], p["worse"]) == ("DST-Adapter", "ST-Adapter")]
    spread = pooled([TABLE_4[row] for row in ("ST-Adapter", "DST-Adapter", "D2ST-Adapter, ours")])
    assert judged["spread"]["motions, other methods"]["freedom"] == 6
    assert pair["interval"] == pytest.approx(spread.interval(1) * (2 / 3) ** 0.5) and pair["interval"] > pair["ours"]
    assert "| Frozen backbone |  | 21.7 | - | 21.7 |" in text


def test_cells_that_do_not_scatter_alike_stand_by_their_own():
    rows = ["aDSTA-S", "aDSTA-T", "aDSTA-Uniform", "aDSTA-S & aDSTA-T"]
    values = dict(
        zip(rows, ([60.0, 85.0, 75.0], [84.0, 84.5, 84.2], [86.0, 86.4, 86.1], [85.0, 85.2, 85.3]), strict=True)
    )
    text, judged = _report(["5"], values)
    assert judged["spread"]["motions, D2ST-Adapter"]["alike"] < 0.01 and "| by cells |" in text
    for row in rows:
        assert f"| {over_seeds(values[row]).interval:.1f} | {values[row][0]:.1f}, " in text
    said = {(pair["better"], pair["worse"]): pair["verdict"] for pair in judged["orders"]}
    assert said["aDSTA-T", "aDSTA-Uniform"] == "reversed"


def test_tables_that_are_not_judged_have_no_scatter_of_others():
    text, _ = _report(
        ["4", "length", "rates"], TABLE_4 | {"ST-Adapter, 200 episodes": [25.0, 75.0, 50.0], "st, 0.006": [80.0]}
    )
    assert "| ST-Adapter, 200 episodes |  | 50.0 | 62.1 | 25.0, 75.0, 50.0 |" in text
    assert "| st, 0.006 |  | 80.0 | - | 80.0 |" in text


def test_a_single_seed_gives_differences_without_intervals():
    text, judged = _report(["4"], {row: values[:1] for row, values in TABLE_4.items()})
    assert {pair["verdict"] for pair in judged["orders"]} == {"cannot be told apart"} and not judged["spread"]
    assert "D2ST-Adapter over ST-Adapter (paper +4.8, here +1.6 ± unknown)" in text and "Missing" not in text


def test_the_small_version_from_clips_to_report(tmp_path, monkeypatch):
    """Two methods, one seed, two episodes, on nine looks instead of sixty; then again, which does nothing anew."""
    parts = split(LOOKS)
    few = {"train": parts["train"][:5], "val": parts["val"][:2], "test": parts["test"][:5]}
    clips = {"train": 2, "val": 1, "test": 6}
    monkeypatch.setattr(small_version, "RenderConfig", functools.partial(RenderConfig, clips=clips))
    monkeypatch.setattr(small_version, "split", lambda _: few)
    only = ("4/Frozen", "4/D2ST-Adapter/")
    config = ReproduceConfig("mini", out=str(tmp_path), only=only, seeds=0, episodes=2, test_episodes=20, device="cpu")
    monkeypatch.setitem(small_version.CLASSES, "motions", LOOKS)
    done = reproduce(config)
    assert done["failed"] == {}
    written = json.loads((tmp_path / "mini.json").read_text())
    assert [len(cell["seeds"]) for cell in written["cells"]] == [1, 1]
    offsets = written["offsets"]["trained"]
    assert {(entry["pathway"]) for entry in offsets} == {"spatial", "temporal"} and len(offsets) == 6
    for entry in offsets:
        assert all(
            0 <= shared <= moved + 1e-3 <= reach + 2e-3
            for shared, moved, reach in zip(entry["shared"], entry["moved"], entry["reach"], strict=True)
        )
    text = (tmp_path / "mini.md").read_text()
    assert "By family" not in text, "these looks are no motions"
    assert "| D2ST-Adapter | 57.0 |" in text and "How far offsets move" in text
    monkeypatch.setattr("d2st.reproduce.run._run_commands", lambda *_: pytest.fail("a cell was run twice"))
    assert reproduce(config)["tables"] == done["tables"]
