"""Take the pictures of a page's camera, answer what the newest ones show, and keep the last window as a clip.

The pictures stay in memory, the newest few seconds of them; nothing is written before the user says what it was.
"""

import io
import math
import secrets
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.prediction import Prediction
from ..classifiers.support_set import EncodedClips
from ..errors import D2STError
from ..spotting.now import surest
from ..spotting.rolling import RollingFrames
from ..spotting.windows import Frame, Window, lengths_for
from .clips import Upload, UploadFolder, written_whole

USUAL = 2.0  # seconds of a window where no example tells how long an action takes
LONGEST = 30.0  # seconds of a window
KEPT = 256  # pictures
MORE = 3  # odd: the middle ones of a kept window are those that were looked at, which uniform sampling finds
SIDE = 1024  # pixels that a picture may have at most


class PageCamera:
    """The newest pictures of a page's camera.

    Attributes:
        frames: the pictures, as uint8 (3, H, W).
        shown: the window of the last answer, with ``MORE`` times as many frames.
    """

    def __init__(self) -> None:
        self._kept = 0
        self._added: tuple[Window, Path] | None = None  # the window kept last, and its file
        self.start()

    def start(self) -> None:
        """Begin anew."""
        self.frames = RollingFrames(USUAL, KEPT)
        self.shown: Window | None = None
        self._last = -math.inf, ()  # time and size of the newest picture

    def take(self, at: float, jpeg: bytes) -> None:
        """Take a picture.

        Args:
            at: when it was taken, in seconds of the browser's clock; one that does not rise is passed over.
            jpeg: the picture as a file.

        Raises:
            D2STError: it is no JPEG picture, or too large.
        """
        try:
            picture = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
            small = max(picture.size) <= SIDE
            pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) if small else None  # (3, H, W)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise D2STError("What came from the camera is no picture.") from error
        if pixels is None:
            raise D2STError(f"A picture of the camera has {picture.size[0]} x {picture.size[1]} pixels, too many.")
        before, size = self._last
        if not before < at < math.inf:
            return
        self._last = at, picture.size
        if size and size != picture.size:  # the camera was turned
            self.frames.clear()
        if self.frames.wants(at):
            self.frames.put(at, Frame(pixels))

    def answer(self, classifier: FewShotClassifier, calibrated: bool) -> dict:
        """Answer what the newest windows show, as the page wants it.

        Args:
            classifier: that knows the actions, or none yet.
            calibrated: whether its confidence says something.

        Returns:
            The answer (None while nothing is taught), what it is most like, the confidence (None where it says
            nothing), the scores, the browser's time at which the window ended, its seconds, and the pictures a second;
            nothing at all where no window is full, or nothing came since the last time.
        """
        lengths = lengths_for(classifier.seconds) if classifier.seconds else (USUAL,)
        lengths = sorted({min(length, LONGEST) for length in lengths})
        frames = self.frames  # read once: the camera may be started anew meanwhile
        frames.seconds = lengths[-1]
        windows = frames.newest(lengths, MORE * classifier.frames)
        if not windows:
            return {}
        if classifier.classes:
            window, found = surest(windows, _match(classifier, windows))
            confidence = found.confidence if calibrated else None
            said = {"answer": found.answer, "likeliest": found.label, "confidence": confidence, "scores": found.scores}
        else:
            window = windows[0]
            said = {"answer": None, "likeliest": None, "confidence": None, "scores": {}}
        if frames is self.frames:
            self.shown = window
        return said | {"end": window.end, "seconds": window.end - window.start, "rate": frames.rate}

    def keep(self, folder: Path, uploads: UploadFolder) -> Upload:
        """Write the window of the last answer as a clip that loses nothing.

        Args:
            folder: of the page.
            uploads: which knows how much space is left.

        Raises:
            D2STError: there was no answer yet, its window was kept already, or there is no space.
        """
        shown = self.shown  # read once: the next answer may come meanwhile
        if shown is None:
            raise D2STError("There is nothing to add yet: press Start, and wait until the first window is full.")
        if self._added and self._added[0] is shown and self._added[1].exists():
            raise D2STError("This window was added already: wait for the next answer, with the camera on.")
        with uploads.reserved(sum(frame.pixels.nbytes for frame in shown.frames)) as fits:
            if not fits:
                raise D2STError(
                    f"The studio keeps at most {uploads.max_total} MB of clips; remove actions, or close pages."
                )
            name, path = f"camera {self._kept + 1}", folder / f"{secrets.token_hex(8)}.mkv"
            with written_whole(path, name):
                _write(path, shown)
        self._kept += 1
        self._added = shown, path
        return Upload(name, path, window=True)


def _match(classifier: FewShotClassifier, windows: Sequence[Window]) -> list[Prediction]:
    """Recognize windows of ``MORE`` times T frames, which have the size of the camera's pictures."""
    middles = [[frame.pixels for frame in window.frames[MORE // 2 :: MORE]] for window in windows]
    clips = [classifier.transform(torch.stack(pixels)) for pixels in middles]
    encoded = classifier.encode_all(torch.stack(clips), [str(window) for window in windows])
    return [classifier.match(EncodedClips(*clip)) for clip in zip(encoded.frames, encoded.tokens, strict=True)]


def _write(path: Path, shown: Window) -> None:
    """Write a window as a video that loses nothing."""
    import av

    count, rate = len(shown.frames), Fraction(len(shown.frames) / (shown.end - shown.start)).limit_denominator(1000)
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width = shown.frames[0].pixels.shape[1:]
        stream.pix_fmt = "bgr0"
        stream.codec_context.thread_count = 1
        for number in range(count):
            picture = np.ascontiguousarray(shown.frames[number].pixels.permute(1, 2, 0).numpy())  # (H, W, 3)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
