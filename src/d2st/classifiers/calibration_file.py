"""``calibration.json``: what ``d2st eval --open-set`` found on validation classes, beside the adapter it holds for."""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import __version__
from ..data.clip_reading import ClipReading, tell_apart
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..features.fingerprint import Origin
from ..heads import Head
from ..utils.config import Checked, build, option
from ..utils.console import tell
from ..utils.files import write_json
from ..utils.hub import find
from ..utils.versioned_json import read_versioned
from .calibration import Calibration, fit_calibration

CALIBRATION = "calibration.json"
FORMAT = 1
RATES = tuple(i / 200 for i in range(201))


@dataclass(frozen=True)
class Entry(Checked):
    """What was found in episodes of one kind.

    Args:
        way: classes of an episode.
        shot: support clips of a class.
        episodes: how many there were.
        slope: of the confidence, see ``calibration.Calibration``.
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
        flat = known.flatten(), unknown.flatten(), logits.flatten(0, 1), labels.repeat(episodes)
        found = fit_calibration(*flat, reject_rate=0.05)  # the threshold is read off the quantiles
        quantiles = torch.quantile(known.double().flatten(), torch.tensor(RATES, dtype=torch.float64))
        values = found.slope.item(), found.intercept.item(), found.temperature.item()
        return cls(way, shot, episodes, *values, tuple(quantiles.tolist()))

    def at(self, reject_rate: float) -> Calibration:
        """The calibration with which this share of the clips of known classes was taken for unknown."""
        place = reject_rate * (len(RATES) - 1)
        low = math.floor(place)
        below, above = self.quantiles[low], self.quantiles[min(low + 1, len(RATES) - 1)]
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
        """The entry for about as many shots."""
        return min(self.entries, key=lambda entry: abs(math.log(entry.shot / shots)))

    def write(self, path: str | Path) -> Path:
        """Write the file, or ``calibration.json`` in a folder, in one step; missing folders are created."""
        path = _file(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        entries = [asdict(entry) for entry in self.entries]
        about = {"format": FORMAT, "d2st_version": __version__, "model": asdict(self.origin)}
        if self.reading:
            about["reading"] = self.reading.to_dict()
        write_json(path, about | {"entries": entries})
        return path

    @classmethod
    def read(cls, path: str | Path) -> "CalibrationFile":
        """Read what :meth:`write` wrote.

        Raises:
            D2STError: there is no such file, or it cannot be read.
        """
        path = _file(path)
        remedy = "d2st eval --part val --open-set --save-calibration writes one"
        needs = "model", "entries"
        content = read_versioned(path, format=FORMAT, what="calibration", remedy=remedy, needs=needs)
        where = f"The calibration '{path}'"
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

    def fitted_to(self, encoder: VideoEncoder) -> ClipReading:
        """How the clips were read; where that is not said, as an encoder usually reads them."""
        return self.reading or replace(ClipReading.of(encoder), precision=None)

    def check(self, origin: Origin) -> "CalibrationFile":
        """Refuse another model than the one that it was fitted for."""
        if self.origin != origin:
            raise D2STError(
                f"The calibration was fitted for {self.origin.apart(origin)}. Fit one for this model: d2st eval --part "
                f"val --open-set --save-calibration."
            )
        return self

    def check_all(self, encoder: VideoEncoder, head: Head, reading: ClipReading) -> "CalibrationFile":
        """As :meth:`check`; also refuse clips that are read in another way, because scores are sums over frames.

        Another precision is told and taken: it moves scores far less than they scatter.
        """
        self.check(Origin.of(encoder, head))
        own = self.fitted_to(encoder)
        if apart := own.apart(reading):
            raise D2STError(
                f"The calibration was fitted to {apart}. Fit one for this reading (d2st eval --part val --open-set "
                f"--save-calibration), or read clips as it was fitted."
            )
        tell_apart(own, reading, "The calibration was fitted to")
        return self


def beside(
    adapter: str | Path | None, encoder: VideoEncoder, head: Head, reading: ClipReading
) -> CalibrationFile | None:
    """The calibration beside a saved adapter, if there is one; that of another head, or of clips that were read in
    another way, is passed over with a sentence."""
    if not adapter or not (path := find(adapter, CALIBRATION) / CALIBRATION).exists():
        return None
    found, origin = CalibrationFile.read(path), Origin.of(encoder, head)
    if found.origin != origin:
        tell(f"{path} is not used: it was fitted for {found.origin.apart(origin)}.")
        return None
    if apart := found.fitted_to(encoder).apart(reading):
        tell(f"{path} is not used: it was fitted to {apart}.")
        return None
    return found


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path / CALIBRATION if path.is_dir() else path
