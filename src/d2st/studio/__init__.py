"""``d2st studio``: a web page on this machine that learns actions from example clips and recognizes them in others."""

import importlib.util
import ipaddress
from dataclasses import dataclass, field

from ..adapters import AdapterConfig, NoneConfig
from ..data.clip_reading import Sampling, Transforms
from ..errors import D2STError
from ..heads import ChoosesHead, HeadSpec, TextConfig
from ..utils.config import option
from ..utils.device import Precision
from ..utils.limits import FRAMES, REJECT_RATE, SIDE


@dataclass(frozen=True)
class StudioConfig(ChoosesHead):
    """A page at http://127.0.0.1:7860 for this machine alone; Ctrl-C ends it and removes the clips it was given.

    Args:
        backbone: timm name or a backbone that ships with d2st; None is the saved adapter's, or CLIP ViT-B/16.
        weights: local weight file of the backbone.
        image_size: side of the frames in pixels; None is the backbone's own, or the saved adapter's.
        frames: frames of a clip; None is the saved adapter's, or 8.
        sampling: which frames are read: uniform, rate50 or rate35 (released rules), stride or tsn; None is as the saved
            adapter was trained, or uniform.
        transforms: plain keeps the aspect ratio, released resizes to a square; None is as the saved adapter was
            trained, or plain.
        adapter: adapter system put on the backbone untrained; none is the frozen backbone.
        adapter_path: folder of a trained adapter, such as best/ of a training run.
        adapters: folder under which every saved adapter can be chosen on the page.
        head: matching head; None is the one that each saved adapter was trained with, or bi-mhm.
        text: how the names of the classes are told to a head that uses them.
        reject_rate: share of the clips of the taught actions that may be answered "unknown"; the price of telling clips
            that show none of them.
        calibration: file that eval --open-set --save-calibration wrote, for telling unknown actions from few examples;
            None is the calibration.json beside each saved adapter.
        host: address to listen on; only those of this machine (127.0.0.1, ::1, localhost) are taken.
        port: to listen on; 0 is any that is free.
        max_size: megabytes of an uploaded file.
        max_clips: example clips that a page keeps, and clips that it recognizes at once.
        max_total: megabytes of clips of all pages; the oldest uploads go before another one is refused.
        device: auto, cpu or cuda.
        precision: fp32, bf16 or fp16.
    """

    backbone: str | None = None
    weights: str | None = None
    image_size: int | None = option(None, **SIDE)
    frames: int | None = option(None, **FRAMES)
    sampling: Sampling | None = None
    transforms: Transforms | None = None
    adapter: AdapterConfig = field(default_factory=NoneConfig)
    adapter_path: str | None = None
    adapters: str | None = None
    head: HeadSpec | str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    reject_rate: float = option(0.05, **REJECT_RATE)
    calibration: str | None = None
    host: str = "127.0.0.1"
    port: int = option(7860, least=0, most=65_535)
    max_size: int = option(200, least=1, most=100_000)
    max_clips: int = option(100, least=1, most=100_000)
    max_total: int = option(4000, least=1, most=10_000_000)
    device: str = "auto"
    precision: Precision = "fp32"


def studio(config: StudioConfig) -> dict:
    """Serve the page until the process is told to stop.

    Returns:
        Nothing to report: an empty record.

    Raises:
        D2STError: an option cannot be used, gradio is missing, or the port is taken.
    """
    host = check(config)
    if importlib.util.find_spec("gradio") is None:
        raise D2STError('The page needs gradio, which is not installed: pip install "d2st[studio]".')
    from .server import serve

    serve(config, host)
    return {}


def check(config: StudioConfig) -> str:
    """The address to listen on; refuses what would open the page to others, or let nothing in."""
    try:
        address = ipaddress.ip_address("127.0.0.1" if config.host == "localhost" else config.host)
    except ValueError:
        address = None
    if address is None or not address.is_loopback:
        raise D2STError(
            f"The studio listens on this machine alone, and {config.host!r} is not one of its own addresses: leave out "
            f"--host, or give 127.0.0.1, ::1 or localhost. From elsewhere, forward the port: "
            f"ssh -L {config.port}:127.0.0.1:{config.port} USER@MACHINE."
        )
    return str(address)
