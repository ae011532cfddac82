"""The folder of a training run: its files, and the rule that it belongs to one configuration."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..errors import D2STError
from ..utils.files import clear_leftovers, hold, to_json, write_atomic, write_json
from ..utils.provenance import circumstances, write_result
from ..utils.versioned_json import parse, read_versioned

if TYPE_CHECKING:
    from .material import Material

_log = logging.getLogger(__name__)
LOCK = "run.lock"
MATERIAL = "material.json"  # see :class:`d2st.training.material.Material`
# Settings that do not change what a run computes, so that it may go on with others, ...
FREE = {"out", "overwrite", "device", "workers", "decoder", "checkpoint_minutes", "max_bad", "diagnose_every"}
FREE |= {"prefix_folder", "prefix_gigabytes"}
# ... those that change its rounding alone, which is told, ...
ROUNDING = {"compile", "deterministic"}
# ... and those that say where its material lies and not what it is.
PLACES = {"data", "split", "base_novel", "weights"}
_REMEDY = "give another out, or overwrite to start over"


class RunFolder:
    """Keep what a run leaves behind.

    Attributes:
        path: the folder. In it: ``config.json``, ``material.json`` (what it is made from),
            ``metrics.jsonl`` (a line a step and a validation), ``last.safetensors`` (the state that a resumed run goes
            on from), ``best`` and ``final`` (adapter, and head or classifier), ``bad_clips.json``, ``train.json`` (the
            result), ``starts.jsonl`` (command, versions, git state and device of each start), ``shots.csv`` (the clips
            of a few-shot classifier), ``tensorboard``, and ``prefix`` (maps that are computed once).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.material = self.path / MATERIAL
        self.starts = self.path / "starts.jsonl"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.state = self.path / "last.safetensors"
        self.bad = self.path / "bad_clips.json"
        self.shots = self.path / "shots.csv"
        self.best = self.path / "best"
        self.final = self.path / "final"
        self.result = self.path / "train.json"

    def open(
        self,
        config: dict,
        overwrite: bool = False,
        material: "Material | None" = None,
        defaults: Mapping[str, object] = MappingProxyType({}),
        device: str = "",
    ) -> None:
        """Take the folder for this process and a configuration, which it then says in ``config.json``.

        Args:
            config: the resolved configuration, JSON-able.
            overwrite: remove what another run left here.
            material: what the run is made from. It may lie elsewhere than when the run began, and must be the same.
            defaults: of the configuration; a run of an earlier version has them for settings that came later.
            device: that is computed on; another than before, as other ``ROUNDING``, is logged.

        Raises:
            D2STError: another process trains in the folder, or it holds a run with another configuration; the
                settings that differ are named; or one that was made from other material.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = hold(self.path, LOCK)  # until the process, or this object, ends
        for folder in (self.path, self.best, self.final):
            clear_leftovers(folder)
        if overwrite:
            self._clear()
        elif self.config.exists():
            self._compare(config, material, defaults)
        elif self.state.exists():
            raise D2STError(
                f"The folder '{self.path}' holds the state of a run, {self.state.name}, without its "
                f"{self.config.name}, which says of what run. Give another out, or overwrite to start over."
            )
        if material:
            write_json(self.material, material.record)
        write_json(self.config, config)
        start = circumstances() | {"device": device} | {name: config[name] for name in ROUNDING & config.keys()}
        if self.state.exists():
            self._tell_rounding(start)
        self._append(self.starts, start)

    def began_with(self, setting: str) -> object | None:
        """Return a setting of the run in the folder; None where there is none, or it cannot be read."""
        try:
            return self._config().get(setting)
        except D2STError:
            return None

    def log(self, **record: object) -> None:
        """Append a line to ``metrics.jsonl``."""
        self._append(self.metrics, record)

    def trim(self, unit: str, done: int, owed: bool = False) -> None:
        """Drop metrics that a resumed run computes again, and lines that are torn or damaged.

        Args:
            unit: that the run counts ("episode").
            done: of it; what lies after is dropped.
            owed: whether a validation at ``done`` is also made again.
        """
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_bytes().decode("utf-8", "replace").splitlines():
            try:
                record = parse(line, "A line", "it is dropped")
            except D2STError:
                continue
            at = record.get(unit) if isinstance(record, dict) else None
            if not isinstance(at, int) or at > done:
                continue
            made_again = owed and at == done and "validation_accuracy" in record
            if not made_again:
                kept.append(line + "\n")
        write_atomic(self.metrics, lambda temporary: temporary.write_text("".join(kept), "utf-8"))

    def write_result(self, config: object, result: dict) -> None:
        """Write the result of the run; a complete one that is started again keeps it, with the start that it is of."""
        try:
            there = parse(self.result.read_bytes(), "The result", "it is written anew")
        except (OSError, D2STError):
            there = None
        if not isinstance(there, dict) or {key: there.get(key) for key in result} != json.loads(to_json(result)):
            write_result(self.result, config, result)

    @staticmethod
    def _append(path: Path, record: dict) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")

    def _config(self) -> dict:
        """Read the configuration of the run in the folder."""
        remedy = "give another out, or overwrite it"
        return read_versioned(self.config, format=None, what="configuration of the run", remedy=remedy)

    def _compare(self, config: dict, material: "Material | None", defaults: Mapping[str, object]) -> None:
        """Refuse another configuration than that of the run, and other material than it began with."""
        there = _completed(self._config(), defaults)
        recorded = material is not None and self.material.exists()  # earlier versions wrote no record
        keys = (config.keys() | there.keys()) - FREE - ROUNDING
        if recorded:
            keys -= PLACES
        differ = [told for key in sorted(keys) for told in _differences(key, there.get(key), config.get(key))]
        if differ:
            raise D2STError(
                f"The folder '{self.path}' holds a run with another configuration: {'; '.join(differ)}. "
                f"Give what is there, or another out, or overwrite to start over."
            )
        if recorded and (changed := material.changed(self.material, self._unreadable())):
            raise D2STError(
                f"The clips or weights given are not those that the run in '{self.path}' began with: {changed}. "
                f"Restore them, {_REMEDY}."
            )

    def _tell_rounding(self, start: Mapping[str, object]) -> None:
        """Log what was otherwise at the start before and rounds otherwise."""
        keys = ["device", *sorted(ROUNDING & start.keys())]
        try:
            before = parse(self.starts.read_bytes().splitlines()[-1], "The last start", "it is passed over")
            differ = [f"{key} was {before[key]} and is {start[key]}" for key in keys if before[key] != start[key]]
        except (OSError, D2STError, LookupError, TypeError):  # of an earlier version, or damaged
            return
        if differ:
            _log.warning(
                f"The run in '{self.path}' goes on otherwise than before ({', '.join(differ)}): its weights will not "
                f"be those of an undisturbed run bit for bit, but up to rounding."
            )

    def _unreadable(self) -> set[str]:
        """Give the ids of the clips that could not be read so far."""
        try:
            return {str(clip["id"]) for clip in json.loads(self.bad.read_text("utf-8"))}
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return set()

    def _clear(self) -> None:
        """Remove the files of another run; its configuration last, so that no state is ever without it."""
        files = [self.state, self.metrics, self.result, self.bad, self.shots, self.starts, self.material]
        files += self.tensorboard.glob("events.*")
        for folder in (self.best, self.final):
            for kind in ("adapter", "head", "classifier"):
                files += [folder / f"{kind}_config.json", folder / f"{kind}_model.safetensors"]
        for file in (*files, self.config):
            file.unlink(missing_ok=True)


def _completed(settings: Mapping[str, object], defaults: Mapping[str, object]) -> dict:
    """Add the defaults of what is not said, also to an adapter's own settings."""
    completed = {**defaults, **settings}
    for key, default in defaults.items():
        own = settings.get(key)
        if isinstance(own, dict) and isinstance(default, dict) and own.get("name") == default.get("name"):
            completed[key] = {**default, **own}
    return completed


def _differences(key: str, old: object, new: object) -> list[str]:
    """Tell what a setting is in a run and here, where it differs: of an adapter or head its name, or its settings."""
    if old == new:
        return []
    named = [value for value in (old, new) if isinstance(value, Mapping) and "name" in value]
    if len(named) == 2 and old["name"] == new["name"]:
        own = sorted(old.keys() | new.keys())
        return [told for name in own for told in _differences(f"{key}.{name}", old.get(name), new.get(name))]
    old, new = (value["name"] if value in named else value for value in (old, new))
    return [f"{key} is {old} there and {new} here"]
