"""What ``d2st eval --open-set`` does beside the accuracy: which calibration it tries, and the one that it keeps."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..classifiers.calibration_file import CalibrationFile, Entry, beside
from ..data.clip_reading import ClipReading
from ..data.episodes import EpisodeSampler
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..features.fingerprint import Origin
from ..heads import Head
from .open_set import score_open, summarize_open

if TYPE_CHECKING:
    from ..commands.evaluate import EvalConfig


class OpenSet:
    """The open-set part of one evaluation.

    Args:
        config: of the evaluation.

    Raises:
        D2STError: options that cannot be used together.
    """

    def __init__(self, config: "EvalConfig") -> None:
        self.config, self.entries = config, []
        if (config.calibration or config.save_calibration) and not config.open_set:
            raise D2STError("A calibration is tried and written with --open-set; give that too.")
        if (config.calibration or config.save_calibration) and config.heads is not None:
            raise D2STError("A calibration is of one head: give --head instead of --heads.")
        if config.save_calibration and config.part != "val":
            raise D2STError(
                f"A calibration is part of the model and is fitted on validation classes (part val), not on "
                f"{config.part}."
            )
        if config.save_calibration and config.test_frames != "centre":
            raise D2STError(
                f"A calibration is for predict, which reads the central test frames: leave out --test-frames "
                f"{config.test_frames}."
            )

    def unseen(self, classes: int) -> int:
        """How many classes beside an episode's own have queries in it: as many as its own, or as there are."""
        return max(1, min(self.config.way, classes - self.config.way)) if self.config.open_set else 0

    def saved(self, encoder: VideoEncoder, head: Head, reading: ClipReading) -> CalibrationFile | None:
        """The calibration to try: the one given, or the one beside the adapter, unless a new one is fitted."""
        if self.config.calibration:
            return CalibrationFile.read(self.config.calibration).check_all(encoder, head, reading)
        return None if self.config.save_calibration else beside(self.config.adapter_path, encoder, head, reading)

    def __call__(
        self,
        clips: Tensor,
        sampler: EpisodeSampler,
        head: Head,
        device: torch.device,
        text: Tensor | None,
        saved: CalibrationFile | None,
    ) -> dict:
        """Open-set results of one head and shot as JSON; arguments as for ``openset.score_open``."""
        config = self.config
        scores = score_open(clips, sampler, head, config.episodes, device, text, config.reject_rate)
        if config.save_calibration:
            parts = scores.known, scores.unknown, scores.known_logits, scores.labels
            self.entries.append(Entry.fit(*parts, sampler.shot))
        entry = saved and saved.nearest(sampler.shot)
        result = summarize_open(scores, config.reject_rate, entry and entry.at(config.reject_rate))
        return result | ({"calibration_shot": entry.shot} if entry else {})

    def save(self, encoder: VideoEncoder, head: Head, reading: ClipReading) -> Path:
        """Write the calibration that was fitted to clips that were read so."""
        found = CalibrationFile(Origin.of(encoder, head), tuple(self.entries), reading)
        return found.write(self.config.save_calibration)
