"""Answer "unknown" for clips of none of the classes, by the support set or by a calibration of validation classes.

``calibration.json`` is what ``d2st eval --open-set --save-calibration`` found, and lies beside the adapter.
"""

import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..data.clip_reading import ClipReading, log_difference
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..features.fingerprint import Origin
from ..heads import Head
from ..utils.config import Checked, build, option
from ..utils.files import write_json
from ..utils.hub import find
from ..utils.versioned_json import read_versioned
from ..version import __version__
from .open_set import Calibration, class_offsets, fit_calibration, fit_held_out, fit_score, hold_out

_log = logging.getLogger(__name__)

CALIBRATION = "calibration.json"
FORMAT = 1
RATES = tuple(i / 200 for i in range(201))
# With fewer held-out clips, or two classes (of which one is left when the other is held out), a calibration on
# validation episodes is the better one, where there is one: docs/unknown.md.
ENOUGH = 10
ROUNDING = 1e-3  # of its length, by which the features of a clip and of its copy may differ in another batch
NEVER = (
    "No clip is answered 'unknown': with one example of each class nothing says how alike two clips of a class are. "
    "Give two or more examples of a class, or a calibration (d2st eval --part val --open-set --save-calibration)."
)


@dataclass(frozen=True, eq=False)
class Rejector:
    """Turn the logits of clips into answers.

    Attributes:
        offsets: (way,) of the classes, see ``open_set.class_offsets``.
        calibration: None where no clip can be answered "unknown".
    """

    offsets: Tensor
    calibration: Calibration | None

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Give confidence (Q,) in 0..1 of the likeliest class, and unknown (Q,), for logits (Q, way) on the CPU."""
        logits = logits.double()
        if self.calibration is None:
            return logits.softmax(-1).amax(-1), torch.zeros(len(logits), dtype=torch.bool)
        scores = fit_score(logits, self.offsets)
        return self.calibration.confidence(scores, logits), self.calibration.unknown(scores)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Give probabilities (Q, way) of the classes if a clip is one of them, for logits (Q, way) on the CPU."""
        temperature = 1.0 if self.calibration is None else self.calibration.temperature
        return (logits.double() / temperature).softmax(-1)


def fit_rejector(
    head: Head,
    support: Tensor,
    labels: Tensor,
    text: Tensor | None,
    reject_rate: float,
    saved: "CalibrationFile | None",
) -> Rejector:
    """Fit a rejector to a support set.

    The support set itself says what clips of its classes and of others look like, where it has enough clips that can
    be held out; otherwise a calibration file does; otherwise what there is of the support set.

    Args:
        head: in eval mode.
        support: (S, T', D') of the head.
        labels: (S,) 0..way-1.
        text: (way, D') features of the classes' names, for a head that uses them.
        reject_rate: share of the clips of known classes that may be answered "unknown".
        saved: calibrations of this model, where there are any.
    """
    way = int(labels.max()) + 1
    kept = _without_copies(support, labels)
    support, labels = support[kept], labels[kept]
    held = hold_out(head, support, labels, way, text).cpu()
    offsets = class_offsets(held).double()
    count = len(held.labels)
    entry = saved.nearest(len(labels) / way).at(reject_rate) if saved else None
    if count < 2 or (entry and (count < ENOUGH or way < 3)):
        return Rejector(offsets, entry)
    return Rejector(offsets, fit_held_out(held, reject_rate))


def _without_copies(support: Tensor, labels: Tensor) -> Tensor:
    """Number the clips (S',) of a support set, each of which is the first of its kind in its class."""
    kept = torch.ones_like(labels, dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        clips = support[own].flatten(1).cpu().double()  # (K, T' D'); products of floats would round as much
        alike = torch.cdist(clips, clips) <= ROUNDING * clips.norm(dim=1)  # (K, K)
        kept[own] = ~alike.tril(-1).any(1).to(kept.device)
    return kept.nonzero().flatten()


@dataclass(frozen=True)
class Entry(Checked):
    """Calibration of episodes of one kind.

    Args:
        way: classes of an episode.
        shot: support clips of a class.
        episodes: how many there were.
        slope: of the confidence, see ``open_set.Calibration``.
        intercept: of the confidence.
        temperature: of the confidence.
        quantiles: score below which a share ``RATES`` of the clips of known classes lies.
    """

    way: int = option(least=1)
    shot: int = option(least=1)
    episodes: int = option(least=1)
    slope: float = option(least=0)
    intercept: float
    temperature: float = option(above=0)
    quantiles: tuple[float, ...]

    @classmethod
    def fit(cls, known: Tensor, unknown: Tensor, logits: Tensor, labels: Tensor, shot: int) -> "Entry":
        """Fit to all clips of many episodes: scores (E, Q) and (E, U), logits (E, Q, way) and labels (Q,)."""
        episodes, _, way = logits.shape
        known = known.flatten()
        found = fit_calibration(
            known,
            unknown.flatten(),
            logits.flatten(0, 1),
            labels.repeat(episodes),
            reject_rate=0.05,  # the threshold is read off the quantiles
        )
        quantiles = torch.quantile(known.double(), torch.tensor(RATES, dtype=torch.float64))
        return cls(
            way,
            shot,
            episodes,
            found.slope.item(),
            found.intercept.item(),
            found.temperature.item(),
            tuple(quantiles.tolist()),
        )

    def at(self, reject_rate: float) -> Calibration:
        """Make the calibration with which this share of the clips of known classes was taken for unknown."""
        place = reject_rate * (len(RATES) - 1)
        low = math.floor(place)
        below = self.quantiles[low]
        above = self.quantiles[min(low + 1, len(RATES) - 1)]
        threshold = below + (place - low) * (above - below)
        values = threshold, self.slope, self.intercept, self.temperature
        return Calibration(*(torch.tensor(value, dtype=torch.float64) for value in values))


@dataclass(frozen=True)
class CalibrationFile:
    """Calibrations of one model.

    Args:
        origin: the model.
        entries: one for each number of shots.
        reading: how the clips were read that it was fitted to; None is not said, as before it was recorded.
    """

    origin: Origin
    entries: tuple[Entry, ...]
    reading: ClipReading | None = None

    def nearest(self, shots: float) -> Entry:
        """Pick the entry for about as many shots."""
        return min(self.entries, key=lambda entry: abs(math.log(entry.shot / shots)))

    def write(self, path: str | Path) -> Path:
        """Write the file, or ``calibration.json`` in a folder, in one step; missing folders are created."""
        path = _file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "d2st_version": __version__, "model": self.origin.to_dict()}
        if self.reading:
            content["reading"] = self.reading.to_dict()
        content["entries"] = [asdict(entry) for entry in self.entries]
        write_json(path, content)
        return path

    @classmethod
    def read(cls, path: str | Path) -> "CalibrationFile":
        """Read what :meth:`write` wrote.

        Raises:
            D2STError: there is no such file, or it cannot be read.
        """
        path = _file(path)
        where = f"The calibration '{path}'"
        remedy = "d2st eval --part val --open-set --save-calibration writes one"
        content = read_versioned(path, format=FORMAT, what="calibration", remedy=remedy, needs=("model", "entries"))
        if not isinstance(content["entries"], list) or not content["entries"]:
            raise D2STError(f"{where} has no entries; {remedy}.")
        entries = tuple(build(Entry, entry, where) for entry in content["entries"])
        for entry in entries:
            if len(entry.quantiles) != len(RATES) or list(entry.quantiles) != sorted(entry.quantiles):
                raise D2STError(f"{where} has not its {len(RATES)} rising quantiles; {remedy}.")
        reading = content.get("reading")
        if reading is not None:
            reading = ClipReading.from_dict(reading, f"reading in {path}")
        return cls(build(Origin, content["model"], f"{where}: model"), entries, reading)

    def check_model(self, origin: Origin) -> "CalibrationFile":
        """Refuse another model than the one that it was fitted for."""
        if not self.origin.fits(origin):
            raise D2STError(
                f"The calibration was fitted for {self.origin.difference(origin)}. Fit one for this model: d2st eval "
                f"--part val --open-set --save-calibration."
            )
        return self

    def check(self, encoder: VideoEncoder, head: Head, reading: ClipReading) -> "CalibrationFile":
        """Refuse another model or another way of reading clips, because scores are sums over frames.

        Another precision is told and taken: it moves scores far less than they scatter.
        """
        self.check_model(Origin.of(encoder, head))
        own = self.fitted_to(encoder)
        if difference := own.difference(reading):
            raise D2STError(
                f"The calibration was fitted to {difference}. Fit one for this reading (d2st eval --part val "
                f"--open-set --save-calibration), or read clips as it was fitted."
            )
        log_difference(own, reading, "The calibration was fitted to")
        return self

    def fitted_to(self, encoder: VideoEncoder) -> ClipReading:
        """Return how the clips were read; where that is not said, as an encoder usually reads them."""
        return self.reading or replace(ClipReading.of(encoder), precision=None)


def find_calibration(
    adapter: str | Path | None, encoder: VideoEncoder, head: Head, reading: ClipReading
) -> CalibrationFile | None:
    """Read the calibration beside a saved adapter, if there is one that fits; others are passed over with a warning."""
    if not adapter:
        return None
    path = find(adapter, CALIBRATION) / CALIBRATION
    if not path.exists():
        return None
    found, origin = CalibrationFile.read(path), Origin.of(encoder, head)
    if not found.origin.fits(origin):
        _log.warning(f"{path} is not used: it was fitted for {found.origin.difference(origin)}.")
        return None
    if difference := found.fitted_to(encoder).difference(reading):
        _log.warning(f"{path} is not used: it was fitted to {difference}.")
        return None
    return found


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / CALIBRATION if path.is_dir() else path
