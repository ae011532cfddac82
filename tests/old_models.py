"""The backbone, clips and videos from which tests/data/old/make.py and tests/test_old_files.py compute the same."""

from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

SIZE, FRAMES = 32, 4
COLORS = {
    "blue": (20, 20, 220),
    "green": (20, 220, 20),
    "red": (220, 20, 20),
    "cyan": (20, 220, 220),
    "gray": (120, 120, 120),
    "pink": (240, 120, 200),
    "teal": (0, 110, 110),
}
SPLIT = {"train": ["blue", "green", "red"], "val": ["cyan", "gray"], "test": ["pink", "teal"]}
CLIPS = 3  # of each class


def backbone(depth: int = 2, width: int = 16) -> VisionTransformer:
    """Build a tiny ViT whose weights are the same with every version of torch."""
    model = VisionTransformer(
        img_size=SIZE, patch_size=8, embed_dim=width, depth=depth, num_heads=2, num_classes=0, pre_norm=True
    )
    rng = np.random.RandomState(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = rng.random_sample(parameter.shape) - 0.5
            is_scale = "norm" in name and name.endswith("weight")
            parameter.copy_(torch.from_numpy(drawn) * 1.2 + is_scale)
    return model.eval()


def clip(seed: int = 0, frames: int = FRAMES) -> torch.Tensor:
    """Draw a clip (T, 3, H, W) of 0..1: a color that changes, a pattern of its own, and noise."""
    rng = np.random.RandomState(seed)
    color, pattern = rng.random_sample((frames, 3, 1, 1)), rng.random_sample((1, 1, 4, 4))
    tiled = np.kron(pattern, np.ones((1, 1, SIZE // 4, SIZE // 4)))
    noise = rng.random_sample((frames, 3, SIZE, SIZE))
    return torch.from_numpy(0.4 * color + 0.4 * tiled + 0.2 * noise).float()


def numbers(tensor: torch.Tensor, count: int = 16) -> list[float]:
    """Take a few numbers out of a tensor, evenly spaced."""
    flat = tensor.detach().double().flatten()
    places = torch.linspace(0, len(flat) - 1, min(count, len(flat))).round().long()
    return flat[places].tolist()


def write_video(path: Path, color: tuple[int, int, int], seed: int, length: int = 5) -> None:
    """Write a square that moves over a plain ground, without loss."""
    import av

    rng = np.random.RandomState(seed)
    x, y, dx, dy = rng.randint(4, 16, 2).tolist() + rng.randint(-3, 4, 2).tolist()
    color = (0.2 * np.array(color) + 0.8 * rng.randint(0, 256, 3)).astype(np.uint8)  # hard to tell
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width = stream.height = SIZE
        stream.pix_fmt = "rgb24"
        for t in range(length):
            frame = np.full((SIZE, SIZE, 3), 30 + 20 * (seed % 5), np.uint8)
            left, top = min(max(x + t * dx, 0), SIZE - 10), min(max(y + t * dy, 0), SIZE - 10)
            frame[top : top + 10, left : left + 10] = color
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_videos(folder: Path, classes: list[str], count: int = CLIPS, length: int = 5) -> None:
    """Write ``folder/CLASS/N.avi``."""
    for place, name in enumerate(classes):
        for n in range(count):
            write_video(folder / name / f"{n}.avi", COLORS[name], 10 * place + n, length)
