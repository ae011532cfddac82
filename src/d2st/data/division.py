"""Full-shot data: the parts have the same classes, and each clip is in one of them."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import D2STError
from .datasets import ClipSet, clip_set, list_clips
from .lookup import nfc


def open_division(
    data: str | Path,
    split: str | Path | None = None,
    part: str = "train",
    classes: Sequence[str] | None = None,
    *,
    warn: bool = True,
) -> ClipSet:
    """Open one part of a dataset whose parts share their classes.

    Args:
        data: As for :func:`d2st.data.datasets.open_dataset`; also a folder with ``train`` and ``val`` (or
            ``validation``), and perhaps ``test``, in each of them class folders.
        split: The name of a full-shot benchmark, a YAML file with a list file or a share of the clips ("80%") for each
            part, a folder of lists, or a list file. None: the data's own parts; data without parts are all for
            training.
        part: "train", "val" or "test".
        classes: Those of a trained model, in its order; None for those of the training part, sorted.
        warn: Tell about clips that are listed and cannot be used.

    Raises:
        D2STError: If there is no such part, or it has classes that training has not.
    """
    listing, parts = list_clips(Path(data), split, shared=True)
    if not parts:
        parts = {"train": list(listing.clips)}
    if part not in parts:
        raise D2STError(
            f"'{data}' has no part '{part}', only {', '.join(parts)}; give a split that divides the clips, such as a "
            f"YAML file with 'train: 80%' and 'val: 20%'."
        )
    if not listing.assigned and len(parts) > 1:
        raise D2STError(
            f"Each part of split '{split or data}' has classes of its own, which is for few-shot learning. A "
            f"classifier needs the same classes in all parts: give lists, or shares such as 'train: 80%', 'val: 20%'."
        )
    spelled = {nfc(name): name for name in listing.clips}
    names = list(classes or sorted(name for name in parts.get("train", parts[part]) if listing.of(name, "train")))
    there = {name: name if name in listing.clips else spelled.get(nfc(name)) for name in names}
    found = {name: {} if own is None else listing.of(own, part) for name, own in there.items()}
    unknown = [name for name in parts[part] if name not in there.values() and listing.of(name, part)]
    if unknown:
        whose = "the model" if classes else "the training part"
        shown = ", ".join(f"'{name}'" for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise D2STError(f"Part '{part}' of '{data}' has classes that {whose} does not know: {shown}.")
    return clip_set(data, found, listing, listing.problems_of(part), warn)


def parts_of(data: str | Path, split: str | Path | None = None) -> list[str]:
    """The parts that a full-shot dataset has; none where nothing divides it."""
    return list(list_clips(Path(data), split, shared=True)[1])
