"""The named benchmarks: which classes are for training, validation and test, and how many clips each published one has.

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
        name: As users type it.
        title: As papers write it.
        videos: The data set that its clips come from: "ssv2", "kinetics", "hmdb51" or "ucf101".
        classes: Part -> class names, in the order of their numbers in the official lists. Parts of a few-shot benchmark
            share no class, parts of a full-shot one have the same.
        counts: Part -> class -> published number of clips; empty for full-shot benchmarks.
        sets: Part -> the set of ``videos`` that its clips come from, where it matters.
        sizes: Part -> published number of clips of a full-shot benchmark, where there is one.
        chosen: Whether the official lists choose some clips of each class; else a class has all of its clips.
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
        """Whether all parts have the same classes."""
        return not self.counts


def list_benchmarks() -> list[str]:
    """List the names of the benchmarks that are known."""
    return sorted(NAMES)


def load(name: str) -> Benchmark:
    """A benchmark by name.

    Args:
        name: "ssv2-full", "ssv2-small", "kinetics100", "hmdb51" or "ucf101" (few-shot), "kinetics400" or "ssv2"
            (full-shot).

    Raises:
        D2STError: If there is no such benchmark.
    """
    import yaml

    if name not in NAMES:
        raise D2STError(f"There is no benchmark '{name}'; {meant(name)}choose one of {', '.join(NAMES)}.")
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    # BaseLoader keeps every class name a string.
    facts = yaml.load(text, Loader=yaml.BaseLoader)
    common = {"name": name, "title": facts["title"], "videos": facts["videos"], "sets": facts.get("sets", {})}
    if isinstance(facts["classes"], list):
        sizes = {part: int(size) for part, size in facts.get("clips", {}).items()}
        return Benchmark(classes={part: list(facts["classes"]) for part in common["sets"]}, sizes=sizes, **common)
    counts = {part: {name: int(n) for name, n in found.items()} for part, found in facts["classes"].items()}
    return Benchmark(
        classes={part: list(found) for part, found in counts.items()}, counts=counts, chosen="chosen" in facts, **common
    )


def key(name: str) -> str:
    """What all spellings of a class name share: "Brush Hair", "brush_hair" and "BrushHair" give "brushhair"."""
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFC", name).casefold())


def meant(name: str) -> str:
    """What someone who mistyped a benchmark's name is asked, to stand in a sentence; empty where nothing is near."""
    names = {key(known): known for known in NAMES}
    close = [key(name)] if key(name) in names else get_close_matches(key(name), names, n=2)
    return f"did you mean {' or '.join(repr(names[found]) for found in close)}? Else " if close else ""
