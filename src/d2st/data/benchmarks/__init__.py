"""Name the benchmarks: which classes are for training, validation and test, and how many clips each has as published.

Facts about each stand in a YAML file here. Where the clips lie on a disk is found by :mod:`d2st.data.benchmarks.find`.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ...errors import D2STError

FEW_SHOT = ("ssv2-full", "ssv2-small", "kinetics100", "hmdb51", "ucf101")
FULL_SHOT = ("kinetics400", "ssv2")
NAMES = FEW_SHOT + FULL_SHOT


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: as users type it.
        title: as papers write it.
        videos: the data set that its clips come from: "ssv2", "kinetics", "hmdb51" or "ucf101".
        classes: part -> class names, in the order of their numbers in the official lists. Parts of a few-shot benchmark
            share no class, parts of a full-shot one have the same.
        counts: part -> class -> published number of clips; empty for full-shot benchmarks.
        sets: part -> the set of ``videos`` that its clips come from, where it matters.
        sizes: part -> published number of clips of a full-shot benchmark, where there is one.
        chosen: whether the official lists choose some clips of each class; else a class has all of its clips.
    """

    name: str
    title: str
    videos: str
    classes: dict[str, list[str]]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    sets: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    chosen: bool = False

    @property
    def full_shot(self) -> bool:
        """Tell whether all parts have the same classes."""
        return not self.counts


def list_benchmarks() -> list[str]:
    """List the names of the benchmarks that are known."""
    return sorted(NAMES)


def load(name: str) -> Benchmark:
    """Load a benchmark by name.

    Args:
        name: "ssv2-full", "ssv2-small", "kinetics100", "hmdb51" or "ucf101" (few-shot), "kinetics400" or "ssv2"
            (full-shot).

    Raises:
        D2STError: there is no such benchmark.
    """
    import yaml

    if name not in NAMES:
        raise D2STError(f"There is no benchmark '{name}'; {did_you_mean(name)}choose one of {', '.join(NAMES)}.")
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    # BaseLoader keeps every class name a string.
    facts = yaml.load(text, Loader=yaml.BaseLoader)
    sets = facts.get("sets", {})
    counts, sizes = {}, {}
    if isinstance(facts["classes"], list):
        classes = {part: list(facts["classes"]) for part in sets}
        sizes = {part: int(size) for part, size in facts.get("clips", {}).items()}
    else:
        classes = {part: list(names) for part, names in facts["classes"].items()}
        for part, names in facts["classes"].items():
            counts[part] = {name: int(count) for name, count in names.items()}
    chosen = "chosen" in facts
    return Benchmark(name, facts["title"], facts["videos"], classes, counts, sets, sizes, chosen)


def loose_key(name: str) -> str:
    """Reduce a name to what its spellings share: "Brush Hair", "brush_hair" and "BrushHair" give "brushhair"."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFC", name).casefold())


def did_you_mean(name: str) -> str:
    """Ask whether another benchmark was meant, within a sentence; empty where no name is near."""
    names = {loose_key(known): known for known in NAMES}
    close = [loose_key(name)] if loose_key(name) in names else get_close_matches(loose_key(name), names, n=2)
    if not close:
        return ""
    return f"did you mean {' or '.join(repr(names[found]) for found in close)}? Else "
