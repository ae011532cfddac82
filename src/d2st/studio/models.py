"""Load the models a page can choose among: saved adapters, or the frozen backbone where there are none."""

import threading
import weakref
from dataclasses import dataclass, replace
from pathlib import Path

from ..adapter_file import CONFIG
from ..classifiers.create import create_model
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.rejector import find_calibration
from ..errors import D2STError
from ..factory.heads import warn_untrained
from ..spotting.windows import unlike_support
from ..utils.device import pick_device, with_precision
from . import StudioConfig

KEPT = 2  # loaded without a page that uses them, so that going back to one is quick


@dataclass(frozen=True)
class LoadedModel:
    """An encoder and its head, which all pages share.

    Attributes:
        name: as the page lists it.
        about: a few sentences for people.
        options: of a :class:`FewShotClassifier`: the encoder and the head on the device, and how clips are read.
    """

    name: str
    about: str
    options: dict[str, object]

    def classifier(self) -> FewShotClassifier:
        """Build a page's own classifier, without classes."""
        return FewShotClassifier(**self.options)


class ModelCache:
    """Loads models when they are first asked for, each once for all pages that use it.

    Args:
        config: of the command.

    Attributes:
        names: as the page lists them, the first is the one to start with.
        lock: held while an encoder computes: hooks that record points see every pass of it.

    Raises:
        D2STError: the first cannot be loaded, or ``adapters`` holds none.
    """

    def __init__(self, config: StudioConfig) -> None:
        self.device = pick_device(config.device)
        self.config = with_precision(config, self.device)
        self.lock = threading.RLock()
        self.paths = _find(config)
        self.names = list(self.paths)
        self.used: weakref.WeakValueDictionary[str, LoadedModel] = weakref.WeakValueDictionary()  # by pages, or recent
        self.recent: list[LoadedModel] = []  # the last one first
        self.get(self.names[0]).classifier()  # also refuses a calibration that is not of it

    def get(self, name: str) -> LoadedModel:
        """Give the model of a name.

        Raises:
            D2STError: there is none, or it cannot be loaded.
        """
        if name not in self.paths:
            raise D2STError(f"There is no recognizer '{name}'; choose one of {', '.join(self.names)}.")
        with self.lock:
            model = self.used.get(name) or self._load(name)
            self.used[name] = model
            self.recent = [model, *(other for other in self.recent if other is not model)][:KEPT]
            return model

    def _load(self, name: str) -> LoadedModel:
        path = self.paths[name]
        config = replace(self.config, adapter_path=path)
        model, reading, trained = create_model(config, self.device)
        encoder, head = model["encoder"], model["head"]
        if not trained:
            warn_untrained(head)
        if path:
            about = f"{encoder.config.name} adapters on {encoder.backbone_name}."
        else:
            about = (
                f"{encoder.backbone_name} without a trained adapter: it sees what is in the pictures, and hardly how "
                "it moves. Start the studio with --adapter FOLDER to use one."
            )
        options = {
            "precision": config.precision,
            "reject_rate": config.reject_rate,
            "calibration": config.calibration or find_calibration(path, encoder, head, reading),
        }
        about = f"{about} It looks at {reading.frames} frames of a clip."
        about += "".join(f" Live: {note}" for note in unlike_support(reading.sampling))
        return LoadedModel(name, about, model | options)


def _find(config: StudioConfig) -> dict[str, str | None]:
    """Find saved adapters: name -> folder, or None for the backbone as it is."""
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
        known = {Path(path).resolve() for path in found}
        found |= {str(folder.relative_to(top)): str(folder) for folder in folders if folder.resolve() not in known}
    return found or {"frozen backbone" if config.adapter.name == "none" else config.adapter.name: None}
