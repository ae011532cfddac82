"""Tell what a saved adapter was trained on, by the record that its run keeps."""

from pathlib import Path

from ..data.datasets import ClipSet
from ..errors import D2STError
from ..utils.versioned_json import read_versioned
from .material import FORMAT, describe_classes
from .run_folder import MATERIAL


def trained_on(adapter: str | Path | None, clips: ClipSet, *, same_clips: bool) -> list[str]:
    """Name the classes that a run trained on, by the record that it keeps beside its ``best/``.

    Args:
        adapter: folder of the run's adapter; without a record there, nothing is known.
        clips: that are asked about now.
        same_clips: name only classes of which all clips are those of the training, as where parts share classes.
    """
    file = Path(adapter).parent / MATERIAL if adapter else None
    if file is None or not file.is_file():
        return []
    try:
        then = read_versioned(file, format=FORMAT, what="record of the run's material", remedy="", needs=("clips",))
        training = then["clips"]["training"]
        now = describe_classes(clips) if same_clips else dict.fromkeys(clips.classes)
        return [name for name, own in now.items() if name in training and (own is None or own == training[name])]
    except (D2STError, KeyError, TypeError):
        return []
