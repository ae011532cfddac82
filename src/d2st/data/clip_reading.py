"""Record how clips are read, in everything that is made from clips, so that unlike ones never mix."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal, Protocol, Self

from ..utils.config import Checked, build, option
from ..utils.limits import FRAMES, SIDE
from ..utils.options import Precision
from .options import Sampling, Transforms

_log = logging.getLogger(__name__)


class TrainedEncoder(Protocol):
    """An encoder that clips are read for: the frames that it takes, and how it was trained."""

    frames: int
    image_size: tuple[int, int]
    reading: "ClipReading | None"


@dataclass(frozen=True)
class ClipReading(Checked):
    """Record how clips are read, and how precisely they are encoded.

    Args:
        frames: T, frames of a clip.
        sampling: which frames, a rule of :mod:`d2st.data.sampling`.
        transforms: plain keeps the aspect ratio; released resizes to a square.
        image_size: (H, W) of a frame in pixels; None is not known.
        precision: of the encoder's forward pass; None is not known.
        stride: of the rule "stride", frames from one to the next.
        test_frames: centre is the rule's deterministic choice; random draws.
    """

    frames: int = option(**FRAMES)
    sampling: Sampling = "uniform"
    transforms: Transforms = "plain"
    image_size: tuple[int, int] | None = option(None, **SIDE)
    precision: Precision | None = None
    stride: int | tuple[int, ...] = option(16, **FRAMES)
    test_frames: Literal["centre", "random"] = "centre"

    @classmethod
    def of(cls, encoder: TrainedEncoder, **asked: object) -> Self:
        """Return the reading for an encoder: as it was trained, or uniform and plain in fp32 if it was not.

        Args:
            encoder: from ``d2st.adapt`` or ``d2st.load``.
            **asked: fields that are wanted otherwise; None leaves one as it was trained.
        """
        trained = encoder.reading
        usual = {"frames": encoder.frames, "image_size": tuple(encoder.image_size), "precision": "fp32"}
        if trained:
            usual |= {name: getattr(trained, name) for name in ("sampling", "transforms", "stride")}
        return cls(**usual | {name: value for name, value in asked.items() if value is not None})

    @classmethod
    def from_dict(cls, content: object, where: str) -> Self:
        """Build the record from its JSON form.

        Raises:
            D2STError: it is none; the sentence begins with ``where``.
        """
        return build(cls, content, where)

    def to_dict(self) -> dict:
        """Return a JSON-able form."""
        return asdict(self) | {"image_size": self.image_size and list(self.image_size)}

    def difference(self, other: "ClipReading") -> str:
        """Say how another reading differs from this one: "16 frames a clip; this reads 4 frames a clip".

        It does not ("") where only the precision differs, or what one of them does not know.
        """
        mine, theirs = self._described(), other._described()
        differ = [key for key in mine if mine[key] and theirs[key] and mine[key] != theirs[key]]
        if not differ:
            return ""
        own = ", ".join(mine[key] for key in differ)
        others = ", ".join(theirs[key] for key in differ)
        return f"{own}; this reads {others}"

    def precision_difference(self, other: "ClipReading") -> str:
        """Say how the precision differs, which changes numbers by little: "bf16; this is fp32"."""
        if not self.precision or not other.precision or self.precision == other.precision:
            return ""
        return f"{self.precision}; this is {other.precision}"

    def __str__(self) -> str:
        return ", ".join(part for part in self._described().values() if part)

    def _described(self) -> dict[str, str]:
        """Describe every field in words, by its name; "" is not known."""
        rule = f"{self.sampling} ({self.stride})" if self.sampling == "stride" else self.sampling
        return {
            "frames": f"{self.frames} frames a clip" if self.frames > 1 else "1 frame a clip",
            "sampling": f"sampling {rule}",
            "transforms": f"{self.transforms} transforms",
            "image_size": f"{self.image_size[0]}x{self.image_size[1]} pixels" if self.image_size else "",
            "test_frames": f"{self.test_frames} test frames",
        }


def choose_reading(config: object, encoder: TrainedEncoder) -> ClipReading:
    """Return the reading that a command's config asks for; what it leaves open is as the encoder was trained.

    A note is logged where that is not the uniform and plain one, or not what the encoder was trained with.

    Args:
        config: of a command; its fields frames, sampling, transforms, precision and test_frames, those that it has.
        encoder: that will see the clips.

    Raises:
        D2STError: a value that there is not.
    """
    asked = ("frames", "sampling", "transforms", "precision", "test_frames")
    reading = ClipReading.of(encoder, **{name: getattr(config, name, None) for name in asked})
    trained = encoder.reading
    if trained is None:
        return reading
    log_difference(trained, replace(reading, test_frames=trained.test_frames), "The adapter was trained on")
    taken = [name for name in ("sampling", "transforms") if getattr(config, name, None) is None]
    special = [getattr(reading, name) for name in taken]
    if any(value not in ("uniform", "plain") for value in special):
        _log.info(f"Clips are read as the adapter was trained: {reading}.")
    return reading


def with_reading(config: object, reading: ClipReading) -> object:
    """Return a command's config with the reading that was chosen, for its result."""
    own = {field.name for field in fields(config)}
    chosen = {name: getattr(reading, name) for name in ("frames", "sampling", "transforms") if name in own}
    return replace(config, **chosen)


def describe_reading(reading: ClipReading, encoder: TrainedEncoder) -> Mapping[str, object]:
    """Describe for a result how its clips were read, and how those were that the encoder was trained on."""
    return {"reading": reading.to_dict(), "trained_reading": encoder.reading and encoder.reading.to_dict()}


def log_difference(trained: ClipReading, reading: ClipReading, what: str) -> None:
    """Log how a reading differs from the one before; ``what`` begins the sentence."""
    if difference := trained.difference(reading):
        _log.warning(f"{what} {difference}.")
    if rounded := trained.precision_difference(reading):
        _log.info(f"{what} clips in {rounded}; their numbers differ a little.")
