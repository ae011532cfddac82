"""Recognize clips with an exported encoder: onnxruntime, numpy, PyAV and Pillow, without PyTorch and d2st.

    d2st export --adapter runs/first/best --out exported
    python onnx_predict.py exported/encoder.onnx --support support --query new.mp4

``support`` holds a folder of example clips for each class. Without it, the examples of a classifier that was exported
are used (support.npz beside the file). Everything else that is needed to read a clip the file says itself.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import onnxruntime
from PIL import Image

# fmt: off
EXTENSIONS = {  # as d2st has them
    ".3gp", ".asf", ".avi", ".divx", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".vob", ".webm", ".wmv",
}
# fmt: on


class Encoder:
    """An exported encoder: a clip's file -> (T, D), one feature a frame."""

    def __init__(self, file: str):
        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self.about = json.loads(self.session.get_modelmeta().custom_metadata_map["d2st"])
        self.match = matching(self.about["head"])
        if self.about.get("transforms", "plain") != "plain":
            raise SystemExit("This script knows the plain transforms alone; export with --transforms plain.")

    def __call__(self, path: Path) -> np.ndarray:
        about = self.about
        pictures = read(path, about["frames"], about["sampling"])
        pictures = [fit(picture, about["image_size"], about["interpolation"]) for picture in pictures]
        clip = np.stack(pictures).astype(np.float32) / 255  # (T, H, W, 3)
        clip = (clip - np.float32(about["mean"])) / np.float32(about["std"])
        video = clip.transpose(0, 3, 1, 2)[None]  # (1, T, 3, H, W)
        return self.session.run(["features"], {"video": np.ascontiguousarray(video)})[0][0]


def read(path: Path, frames: int, sampling: str) -> list[np.ndarray]:
    """T upright pictures (H, W, 3) of a clip."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    length = len(decoded)
    window = length // frames
    if sampling == "uniform" or (sampling == "rate50" and not window):
        indices = (2 * np.arange(frames) + 1) * length // (2 * frames)  # centers of equal segments
    elif sampling == "rate50":
        indices = np.arange(frames) * window + window // 2
    else:
        raise SystemExit(f"This script does not know the sampling rule {sampling}.")
    return [upright(decoded[i]) for i in indices]


def upright(frame: av.VideoFrame) -> np.ndarray:
    """The picture (H, W, 3) as players show it; phones store theirs turned."""
    return np.rot90(frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray(), frame.rotation // 90)


def fit(picture: np.ndarray, size: list[int], interpolation: str) -> np.ndarray:
    """Resize until the picture covers (H, W), keeping its aspect ratio, then cut out the middle."""
    (height, width), (rows, columns) = size, picture.shape[:2]
    scale = max(height / rows, width / columns)
    rows, columns = max(height, round(rows * scale)), max(width, round(columns * scale))
    resized = Image.fromarray(picture).resize((columns, rows), Image.Resampling[interpolation.upper()])
    top, left = round((rows - height) / 2), round((columns - width) / 2)
    return np.asarray(resized)[top : top + height, left : left + width]


def matching(head: dict) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The rule that the features are meant for: (S, T, D) support, (S,) labels, (T, D) query -> (way,) logits."""
    options = {name: value for name, value in head.items() if name != "name"}
    if head["name"] == "ridge":
        return partial(ridge, **options)
    defaults = {"cosine": "norm", "shots": "prototype", "tuples": 1, "direction": "both"}
    if head["name"] == "bi-mhm" and options.items() <= defaults.items():
        return bi_mhm
    raise SystemExit(
        f"This script matches by ridge and by bi-mhm as it is by default, not by {head}; see d2st predict."
    )


def bi_mhm(support: np.ndarray, labels: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Minus the distance to the mean clip of each class."""
    prototypes = np.stack([support[labels == label].mean(0) for label in range(labels.max() + 1)])  # (way, T, D)
    distances = 1 - unit(prototypes) @ unit(query).T  # (way, T, T)
    return -(distances.min(-1).sum(-1) + distances.min(-2).sum(-1))


def ridge(
    support: np.ndarray, labels: np.ndarray, query: np.ndarray, order: bool, penalty: float, scale: float
) -> np.ndarray:
    """A linear classifier: ridge regression of the classes on the support clips, in which classes count alike."""
    targets = np.eye(labels.max() + 1)[labels]  # (S, way)
    weights = (targets / targets.sum(0)).sum(1) / targets.shape[1]  # (S,), sum 1
    clips = [unit(frames) if order else unit(frames).mean(-2) for frames in (support, query)]
    examples, asked = clips[0].reshape(len(support), -1), clips[1].reshape(-1)
    center = weights @ examples
    examples, asked = examples - center, asked - center
    spread = max(weights @ np.square(examples).sum(1), 1e-8)
    root = np.sqrt(weights)[:, None]  # (S, 1)
    system = root * (examples @ examples.T / spread) * root.T + penalty * np.eye(len(examples))
    coefficients = root * np.linalg.solve(system, root * targets)  # (S, way)
    return scale * (weights @ targets + asked @ examples.T / spread @ coefficients)


def unit(frames: np.ndarray) -> np.ndarray:
    """Frames (..., D) of length 1."""
    return frames / np.linalg.norm(frames, axis=-1, keepdims=True)


def clips(folder: Path) -> list[Path]:
    """The video files of a folder and of those in it, or the one that is named."""
    if folder.is_file():
        return [folder]
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in EXTENSIONS and not p.name.startswith("."))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoder", help="encoder.onnx, as d2st export wrote it")
    parser.add_argument("--support", type=Path, help="folder with a folder of example clips for each class")
    parser.add_argument("--query", type=Path, required=True, help="clip, or folder of clips")
    parser.add_argument("--json", action="store_true", help="print the logits of each clip as a JSON line")
    arguments = parser.parse_args()
    encoder = Encoder(arguments.encoder)
    if arguments.support:
        classes = sorted(folder.name for folder in arguments.support.iterdir() if folder.is_dir())
        examples = [(label, clip) for label, name in enumerate(classes) for clip in clips(arguments.support / name)]
        labels = np.array([label for label, _ in examples])  # (S,)
        empty = [name for label, name in enumerate(classes) if label not in labels]
        if empty or not classes:
            raise SystemExit(
                f"{arguments.support} must hold a folder of clips for each class: {empty or 'none is there'}."
            )
        support = np.stack([encoder(clip) for _, clip in examples])  # (S, T, D)
    else:
        file = Path(arguments.encoder).with_name("support.npz")
        if not file.exists():
            raise SystemExit(f"There is no {file}, as an exported classifier has it; give examples by --support.")
        saved = np.load(file)
        support, labels, classes = saved["features"], saved["labels"], saved["classes"].tolist()
    queries = clips(arguments.query)
    if not queries:
        raise SystemExit(f"'{arguments.query}' is no video file and no folder that holds some.")
    for clip in queries:
        logits = encoder.match(support, labels, encoder(clip))
        if arguments.json:
            print(json.dumps({"clip": str(clip), "logits": dict(zip(classes, logits.tolist(), strict=True))}))
        else:
            scores = np.exp(logits - logits.max())
            scores = scores / scores.sum()
            ranked = sorted(zip(classes, scores, strict=True), key=lambda pair: -pair[1])
            print(clip, *(f"{name} {score:.3f}" for name, score in ranked[:3]), sep="  ")


if __name__ == "__main__":
    main()
