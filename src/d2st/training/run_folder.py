"""The folder of a training run."""

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import D2STError
from ..utils.files import clear_leftovers, hold, to_json, write_atomic, write_json
from ..utils.provenance import circumstances
from ..utils.versioned_json import parse, read_versioned

if TYPE_CHECKING:
    from .material import Material

LOCK = "run.lock"
# Settings that do not change what a run computes, so that it may go on with others.
FREE = {"out", "overwrite", "device", "workers", "checkpoint_minutes", "max_bad"}
PLACES = {"data", "split", "weights"}  # that say where a run's material lies and not what it is


class RunFolder:
    """What a run leaves behind, and the rule that a folder belongs to one configuration.

    Attributes:
        path: the folder. In it: ``config.json``, ``material.json`` (what it is made from),
            ``metrics.jsonl`` (a line a step and a validation), ``last.safetensors`` (the state that a resumed run goes
            on from), ``best`` and ``final`` (adapter, and head or classifier), ``bad_clips.json``, ``train.json`` (the
            result), ``starts.jsonl`` (command, versions and git state of each start), ``tensorboard``.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config, self.metrics = self.path / "config.json", self.path / "metrics.jsonl"
        self.state, self.result = self.path / "last.safetensors", self.path / "train.json"
        self.best, self.final = self.path / "best", self.path / "final"
        self.bad, self.tensorboard = self.path / "bad_clips.json", self.path / "tensorboard"
        self.starts, self.material = self.path / "starts.jsonl", self.path / "material.json"

    def open(self, config: dict, overwrite: bool = False, material: "Material | None" = None) -> None:
        """Take the folder for this process and a configuration, which it then says in ``config.json``.

        Args:
            config: the resolved configuration, JSON-able.
            overwrite: remove what another run left here.
            material: what the run is made from. It may lie elsewhere than when the run began, and must be the same.

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
            self._compare(config, material)
        elif self.state.exists():
            raise D2STError(
                f"The folder '{self.path}' holds the state of a run, {self.state.name}, without its "
                f"{self.config.name}, which says of what run. Give another out, or overwrite to start over."
            )
        if material:
            write_json(self.material, material.record)
        write_json(self.config, config)
        self._append(self.starts, circumstances())

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
            again = owed and at == done and "validation_accuracy" in record
            if isinstance(at, int) and at <= done and not again:
                kept.append(line + "\n")
        write_atomic(self.metrics, lambda temporary: temporary.write_text("".join(kept), "utf-8"))

    @staticmethod
    def _append(path: Path, record: dict) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(to_json(record) + "\n")

    def _compare(self, config: dict, material: "Material | None") -> None:
        there = read_versioned(
            self.config, format=None, what="configuration of the run", remedy="give another out, or overwrite it"
        )
        known = material and self.material.exists()  # runs of before have settings alone
        keys = sorted((config.keys() | there.keys()) - FREE - (PLACES if known else set()))
        pairs = [(key, there.get(key), config.get(key)) for key in keys]
        differ = [f"{key} is {old} there and {new} here" for key, old, new in pairs if old != new]
        if differ:
            raise D2STError(
                f"The folder '{self.path}' holds a run with another configuration: {'; '.join(differ)}. "
                f"Give another out, or overwrite to start over."
            )
        if known and (said := material.changed(self.material, self._unreadable())):
            raise D2STError(
                f"The clips or weights given are not those that the run in '{self.path}' began with: {said}. Restore "
                f"them, give another out, or overwrite to start over."
            )

    def _unreadable(self) -> set[str]:
        """Ids of the clips that could not be read so far."""
        try:
            return {str(clip["id"]) for clip in json.loads(self.bad.read_text("utf-8"))}
        except (OSError, ValueError, TypeError, KeyError):
            return set()

    def _clear(self) -> None:
        files = [
            self.state,
            self.metrics,
            self.result,
            self.bad,
            self.starts,
            self.material,
            *self.tensorboard.glob("events.*"),
        ]
        for folder in (self.best, self.final):
            pairs = itertools.product(("adapter", "head", "classifier"), ("config.json", "model.safetensors"))
            files += [folder / f"{kind}_{file}" for kind, file in pairs]
        for file in (*files, self.config):  # last, so that no state is ever without its configuration
            file.unlink(missing_ok=True)
