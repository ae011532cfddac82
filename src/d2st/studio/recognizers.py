"""The recognizers a page can choose among: saved adapters, or the frozen backbone where there are none."""

import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapter_file import CONFIG
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.rejector import CalibrationFile, find_calibration
from ..data.clip_reading import ClipReading, choose
from ..encoder import VideoEncoder
from ..errors import D2STError
from ..factory.encoder import build_encoder
from ..factory.heads import build_head, tell_untrained
from ..heads import Head
from ..utils.device import pick_device
from . import StudioConfig

KEPT = 2  # loaded without a page that uses them, so that going back to one is quick


@dataclass(frozen=True)
class Recognizer:
    """A loaded encoder and its head, which all pages share.

    Attributes:
        name: as the page lists it.
        encoder: on the device.
        head: the one it was trained with, or as configured.
        reading: how clips are read for it.
        calibration: of these, for telling unknown actions from few examples, where there is one.
        about: one sentence for people.
    """

    name: str
    encoder: VideoEncoder
    head: Head
    reading: ClipReading
    calibration: str | CalibrationFile | None
    about: str


class Recognizers:
    """Loads recognizers when they are first asked for, each once for all pages that use it.

    Args:
        config: of the verb.

    Attributes:
        names: as the page lists them, the first is the one to start with.
        lock: held by whoever computes with an encoder; its hooks serve one clip at a time.

    Raises:
        D2STError: the first cannot be loaded, or ``adapters`` holds none.
    """

    def __init__(self, config: StudioConfig) -> None:
        self.config, self.device, self.lock = config, pick_device(config.device), threading.RLock()
        self.paths = _find(config)
        self.names = list(self.paths)
        self.loaded: OrderedDict[str, Recognizer] = OrderedDict()
        self.used: weakref.WeakValueDictionary[str, Recognizer] = weakref.WeakValueDictionary()  # by pages, or loaded
        self.get(self.names[0])

    def get(self, name: str) -> Recognizer:
        """The recognizer of a name.

        Raises:
            D2STError: there is none, or it cannot be loaded.
        """
        if name not in self.paths:
            raise D2STError(f"There is no recognizer '{name}'; choose one of {', '.join(self.names)}.")
        with self.lock:
            own = self.used.get(name) or self._load(name)
            self.loaded[name] = self.used[name] = own
            self.loaded.move_to_end(name)
            while len(self.loaded) > KEPT:
                self.loaded.popitem(last=False)
            return own

    def classifier(self, own: Recognizer) -> FewShotClassifier:
        """A classifier of a page's own, without classes, on the encoder and head of a recognizer."""
        config = self.config
        return FewShotClassifier(
            own.encoder,
            own.head,
            frames=own.reading.frames,
            sampling=own.reading.sampling,
            transforms=own.reading.transforms,
            precision=config.precision,
            text=config.text,
            reject_rate=config.reject_rate,
            calibration=own.calibration,
        )

    def _load(self, name: str) -> Recognizer:
        path = self.paths[name]
        config = replace(self.config, adapter_path=path)
        encoder, _ = build_encoder(config)
        reading = choose(config, encoder)
        head, trained = build_head(config.head, encoder, reading.frames, saved=path, weights=config.weights)
        if not trained:
            tell_untrained(head)
        about = f"{encoder.config.name} adapters on {encoder.backbone_name}"
        if not path:
            about = (
                f"{encoder.backbone_name} without a trained adapter: it sees what is in the pictures, and hardly how "
                "it moves. Start the studio with --adapter FOLDER to use one"
            )
        about += f". It looks at {reading.frames} frames of a clip."
        calibration = config.calibration or find_calibration(path, encoder, head, reading)
        return Recognizer(name, encoder.to(self.device), head.to(self.device), reading, calibration, about)


def _find(config: StudioConfig) -> dict[str, str | None]:
    """Name -> folder of a saved adapter, or None for the backbone as it is."""
    found: dict[str, str | None] = {}
    if config.adapter_path:
        found[config.adapter_path] = config.adapter_path
    if config.adapters:
        top = Path(config.adapters)
        if not top.is_dir():
            raise D2STError(f"--adapters {config.adapters} is not a folder; give one that holds saved adapters.")
        folders = sorted(file.parent for file in top.rglob(CONFIG))
        if not folders:
            raise D2STError(
                f"The folder '{top}' holds no saved adapter (no {CONFIG} anywhere below it); give the --out of "
                "trainings, or leave out --adapters."
            )
        known = {Path(path).resolve() for path in found.values() if path}
        found |= {str(f.relative_to(top)): str(f) for f in folders if f.resolve() not in known}
    return found or {"frozen backbone" if config.adapter.name == "none" else config.adapter.name: None}
