"""Run ``d2st learn``: a folder of clips in, the best recognizer out, with how often it will be right."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..backbones.build import at_hand
from ..data.datasets import ClipSet
from ..errors import D2STError
from ..factory.encoder import DEFAULT_BACKBONE
from ..heads import Head
from ..learning import findings
from ..learning.answers import answer
from ..learning.choice import RULE, Candidate, Choice, choose
from ..learning.estimate import Promise, with_gain
from ..learning.folds import divide
from ..learning.groups import Groups, find_groups
from ..utils.console import plain_console, plain_table, printable, say, tell
from ..utils.device import pick_device, with_precision
from ..utils.distributed import launch
from ..utils.files import hold
from ..utils.provenance import write_result
from .learn_clips import allowance, look
from .learn_models import WORK, Bench, Model, models_of, plain_heads
from .learn_report import expected_sentence, write_page
from .learn_trials import GivenUp, Trial
from .options import LearnConfig

REPEATS = 4  # divisions into folds, for models whose clips are encoded once
REPORT = "report.json"


@dataclass(frozen=True, eq=False)
class Tried:
    """Hold a trial and the head that go with a candidate."""

    candidate: Candidate
    trial: Trial
    head: Head


def learn(config: LearnConfig) -> dict:
    """Try models and heads on clips that are held out, keep the best recognizer, and report what to expect of it.

    Returns:
        The content of report.json.

    Raises:
        D2STError: an option cannot be used, or there is no class with a readable clip.
    """
    began = time.monotonic()
    config = with_precision(config, pick_device(config.device))
    clips, looked = look(config)
    groups = find_groups(clips, Path(config.clips), config.groups)
    work = Path(config.out) / WORK
    work.mkdir(parents=True, exist_ok=True)
    with hold(work, "learn.lock"):
        return _learn(config, clips, groups, looked, began)


def _learn(config: LearnConfig, clips: ClipSet, groups: Groups, looked: dict, began: float) -> dict:
    folds = divide(clips.labels, groups.of, REPEATS, config.seed)
    say(allowance(clips, groups, folds.measured))
    fabric = launch(pick_device(config.device))
    bench = Bench(config, fabric, clips, folds, began + 60 * config.minutes)
    tried, left_out = _try_all(bench, models_of(config, len(clips.classes)))
    choice = choose([one.candidate for one in tried], groups.of, config.seed)
    chosen = next(one for one in tried if one.candidate is choice.chosen)
    say(f"\nTrain and keep: {choice.chosen.name}.")
    classifier = chosen.trial.recognizer(chosen.head.spec)
    classifier.save_pretrained(config.out)
    report = {
        "command": _command(config),
        "use": shlex.join(["d2st", "predict", "--classifier", config.out, *_kept_options(config), "--query", "NEW"]),
        "clips": len(clips),
        "classes": {name: len(of) for name, of in zip(clips.classes, clips.by_class, strict=True)},
        "groups": {"count": len(set(groups.of)) if groups.names else 0, "source": groups.source},
        "looked": looked,
        "left_out": left_out,
        "candidates": _candidates(choice, tried),
        "chosen": choice.chosen.name,
        "rule": RULE,
        "reason": choice.reason,
        **_find_out(chosen, choice.expected, clips, groups, config),
        "minutes": (time.monotonic() - began) / 60,
    }
    write_result(Path(config.out) / REPORT, config, report)
    write_page(Path(config.out), report, clips)
    _conclude(config, report)
    return report


def _try_all(bench: Bench, models: Sequence[Model]) -> tuple[list[Tried], list[dict]]:
    """Try every model with every head, as far as the time goes; Ctrl-C ends it with what there is."""
    trials = [Trial(model, bench) for model in models]
    _print_plan(trials, bench)
    tried: list[Tried] = []
    left_out: list[dict] = []
    for cost, trial in enumerate(trials):
        name = trial.model.name
        try:
            if not trial.fits() and tried:
                minutes = (trial.seconds() - bench.seconds_left) / 60
                raise GivenUp(f"the time left is too short by about {max(1, minutes):.0f} minutes")
            say(f"\nTry {name}{f', {trial.episodes} episodes a fold' if trial.episodes else ''}.")
            tried += [_ask(trial, head, built, cost) for head, built in plain_heads().items()]
        except GivenUp as reason:
            left_out.append({"model": name, "reason": str(reason)})
        except D2STError as error:  # such as a training that diverged
            if not trial.model.lr or not tried:
                raise
            left_out.append({"model": name, "reason": str(error).rstrip(".")})
        except KeyboardInterrupt:
            if not tried:
                raise
            left_out += [{"model": other.model.name, "reason": "interrupted"} for other in trials[cost:]]
            break
    return tried, left_out


def _ask(trial: Trial, name: str, head: Head, cost: int) -> Tried:
    """Ask a model with a head about every clip while it is held out."""
    answers = answer(head, partial(trial.tokens, head), trial.bench.clips.labels, trial.folds)
    return Tried(Candidate(trial.model.name, name, cost, answers), trial, head)


def _print_plan(trials: Sequence[Trial], bench: Bench) -> None:
    table = plain_table("to try", "minutes, about")
    for trial in trials:
        least = "at least " if trial.model.lr else ""
        table.add_row(printable(trial.model.name), f"{least}{trial.seconds() / 60:.1f}")
    console = plain_console()
    console.print(table)
    console.print(f"{bench.seconds_left / 60:.0f} minutes are left for it; what does not fit is left out.")
    if bench.config.backbone is None and not at_hand(DEFAULT_BACKBONE):
        console.print(
            f"For scenes filmed by a camera --backbone {DEFAULT_BACKBONE} is the one to try. It is not on this machine "
            "and would be downloaded once (350 MB)."
        )


def _candidates(choice: Choice, tried: Sequence[Tried]) -> list[dict]:
    """Describe the candidates, the best first."""
    rows = []
    for one, promise, difference in zip(tried, choice.promises, choice.differences, strict=True):
        found = {"model": one.candidate.model, "head": one.candidate.head, "measured": promise and asdict(promise)}
        if promise:
            found["difference"] = asdict(difference)
        rows.append(found)
    return sorted(rows, key=lambda row: -row["measured"]["mean"] if row["measured"] else 0)


def _find_out(chosen: Tried, expected: Promise | None, clips: ClipSet, groups: Groups, config: LearnConfig) -> dict:
    """Look closer at the candidate that was chosen."""
    if expected is None:
        keys = ("expected", "confusion", "gain", "rejection")
        return dict.fromkeys(keys) | {"confused": [], "suspects": [], "curve": []}
    trial, head, answers = chosen.trial, chosen.head, chosen.candidate.answers
    tokens, named = partial(trial.tokens, head), clips.classes
    matrix = findings.confusion_matrix(answers, len(named))
    curve = findings.learning_curve(head, tokens, clips.labels, groups.of, trial.folds, config.seed)
    shots = float(np.median([len(of) for of in clips.by_class]))
    left = min(shots, trial.folds.examples(clips.labels))  # of a class in a fold
    rejected, trained_on = _rejection(chosen, clips, config)
    return {
        "expected": asdict(with_gain(expected, findings.gain(curve, left, shots) or 0.0)),
        "confusion": matrix.tolist(),
        "confused": [
            {"one": named[c.one], "other": named[c.other], "share": c.share} for c in findings.confusions(matrix)
        ],
        "suspects": [
            {"id": clips.clips[s.clip].id, "class": named[clips.labels[s.clip]], "taken_for": named[s.taken_for]}
            for s in findings.suspects(answers)
        ],
        "curve": [{"shots": size, **asdict(measured)} for size, measured in curve],
        "gain": findings.gain(curve, shots, shots + 2),
        "rejection": rejected and {**asdict(rejected), "trained_on_others": trained_on},
    }


def _rejection(chosen: Tried, clips: ClipSet, config: LearnConfig) -> tuple[findings.Rejection | None, bool]:
    """Measure what becomes of clips of no class; tells whether the model was trained on those others all the same."""
    trial, head = chosen.trial, chosen.head
    of_folds = partial(
        findings.rejection, head, partial(trial.tokens, head), clips.labels, trial.folds, config.reject_rate
    )
    if not trial.model.lr or len(clips.classes) < 3:
        return of_folds(), False
    say("\nTrain once more without some of the classes, to see what becomes of other actions.")
    try:
        seen = trial.unseen()
    except (GivenUp, KeyboardInterrupt) as reason:  # the recognizer is there already, and its report comes in any case
        told = str(reason) or "interrupted"
        tell(f"How clips of other actions are told is measured with adapters that were trained on them: {told}.")
        return of_folds(), True
    with torch.no_grad():
        tokens = head.embed(seen.frames)
    parts = seen.examples, seen.own, seen.others
    return findings.rejection_of_unseen(head, tokens, clips.labels, *parts, config.reject_rate), False


def _command(config: LearnConfig) -> str:
    """Write the line that makes the same again."""
    words = ["d2st", "learn", config.clips, "--out", config.out, "--minutes", f"{config.minutes:g}"]
    default, said = LearnConfig(), ("clips", "out", "minutes")
    for name in dict.fromkeys([*LearnConfig.__annotations__, *(field.name for field in fields(config))]):
        value = getattr(config, name)
        if name not in said and value != getattr(default, name):
            flag = "--" + name.removesuffix("_path").replace("_", "-")
            words += [flag, str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)


def _kept_options(config: LearnConfig) -> list[str]:
    """Return what a saved classifier must be told again: a backbone from a file, and how much may be "unknown"."""
    words = ["--weights", config.weights] if config.weights else []
    if config.reject_rate != LearnConfig.reject_rate:
        words += ["--reject-rate", f"{config.reject_rate:g}"]
    return words


def _conclude(config: LearnConfig, report: dict) -> None:
    table = plain_table("model", "head", "right, %", "95 %")
    for row in report["candidates"]:
        measured = row["measured"]
        numbers = ["–", "–"]
        if measured:
            numbers = [f"{100 * measured['mean']:.1f}", f"{100 * measured['low']:.0f} to {100 * measured['high']:.0f}"]
        table.add_row(printable(row["model"]), row["head"], *numbers)
    plain_console().print(table)
    for entry in report["left_out"]:
        say(f"Not tried: {entry['model']}: {entry['reason']}.")
    say(report["reason"])
    say(expected_sentence(report))
    say(f"The report is {config.out}/report.html. To use the recognizer: {report['use']}")
