"""A dataset and a backbone small enough to train in seconds."""

from pathlib import Path

import numpy as np

SIDE, FRAMES = 32, 4
SPLIT = {"train": ["blue", "green", "red", "white"], "val": ["cyan", "grey"], "test": ["pink", "sand", "teal"]}
_COLORS = {
    "blue": (20, 20, 220),
    "green": (20, 220, 20),
    "red": (220, 20, 20),
    "white": (240, 240, 240),
    "cyan": (20, 220, 220),
    "grey": (120, 120, 120),
    "pink": (240, 120, 200),
    "sand": (200, 180, 100),
    "teal": (0, 110, 110),
}
CLIPS = 5  # of each class


def write_dataset(folder: Path) -> Path:
    """``data/<class>/<n>.mp4``, noisy clips in the class's color, ``split.yaml`` and ``weights.safetensors``."""
    import timm
    import torch
    import yaml
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    for name in _COLORS:
        (folder / "data" / name).mkdir(parents=True)
        for n in range(CLIPS):
            write_clip(folder / "data" / name / f"{n}.mp4", noisy(rng, name, 8 + n))
    (folder / "split.yaml").write_text(yaml.safe_dump(SPLIT))
    torch.manual_seed(0)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), folder / "weights.safetensors")
    return folder


def noisy(rng: np.random.Generator, name: str, length: int) -> np.ndarray:
    """Frames (length, SIDE, SIDE, 3) of a class."""
    noise = rng.integers(-40, 40, (length, SIDE, SIDE, 3))
    return np.clip(noise + np.array(_COLORS[name]), 0, 255).astype(np.uint8)


def write_clip(path: Path, frames: np.ndarray, rate: int = 25) -> None:
    """Encode uint8 frames (L, H, W, 3)."""
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def options(folder: Path, **more: object) -> dict:
    """Fields that every command's config shares, for this dataset and backbone."""
    common = {"data": str(folder / "data"), "split": str(folder / "split.yaml"), "device": "cpu"}
    model = {"backbone": "test_resnet", "weights": str(folder / "weights.safetensors"), "image_size": SIDE}
    return common | model | {"frames": FRAMES} | more
