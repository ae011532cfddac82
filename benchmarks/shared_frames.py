"""What ``d2st spot`` saves where frames that windows share pass what lies before the first adapter once.

    python benchmarks/shared_frames.py --backbone vit_small_patch16_224 --adapter none --seconds 8
    python benchmarks/shared_frames.py --backbone resnet50 --adapter d2st --positions late --seconds 8

The same video is watched with frames shared and with every window by itself, in turns, by one thread; the ratio of CPU
seconds is the median over the turns. Weights and pictures are random and nothing is decoded. Near the ends of a video
there are fewer windows, so a short one takes less a minute than a long one. "apart" is the largest difference of
logits, as a share of their standard deviation.
"""

import argparse
import json
import statistics
import time
from unittest import mock

import numpy as np
import torch

import d2st
from d2st.adapters import SYSTEMS
from d2st.features.prefix import split_for_inference
from d2st.spotting.watch import watch
from d2st.spotting.windows import cut

CLASSES, SHOTS = 5, 3
HEIGHT, WIDTH = 256, 340  # of a picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--adapter", default="none", choices=sorted(SYSTEMS))
    parser.add_argument("--positions", default="late", help="adapted sites: all, early, late, skip, or 9,10,11")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, default=8, help="of a window")
    parser.add_argument("--lengths", default="1.6,2.1,2.8,3.75", help="of windows, in seconds")
    parser.add_argument("--stride", type=float, default=0.25)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=8, help="of video")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    classifier = build(options)
    parts = split_for_inference(classifier.encoder)
    if parts is None:
        parser.error("This encoder has no part that sees one frame at a time.")
    lengths = [float(length) for length in options.lengths.split(",")]
    times = [i / options.fps for i in range(round(options.seconds * options.fps))]
    pictures = np.random.default_rng(0).integers(0, 256, (len(times), HEIGHT, WIDTH, 3), np.uint8)

    def search() -> tuple[np.ndarray, float]:
        """Logits of all windows, and CPU seconds."""
        start = time.process_time()
        video = zip(times, pictures, strict=True)
        seen = list(watch(classifier, video, options.fps, lengths, options.stride, options.batch_size))
        return np.concatenate([batch.logits for batch in seen]), time.process_time() - start

    shared, alone = [], []
    for _ in range(options.turns):
        logits, seconds = search()
        shared.append(seconds)
        with mock.patch("d2st.spotting.watch.split_for_inference", lambda encoder: None):
            expected, seconds = search()
        alone.append(seconds)
    numbered = zip(times, range(len(times)), strict=True)
    windows = list(cut(numbered, lengths, options.stride, options.frames, 1 / options.fps))
    minute = 60 / options.seconds
    result = vars(options) | {
        "torch": torch.__version__,
        "cut": str(getattr(parts, "cut", "none")),
        "windows": len(windows),
        "frames_of_windows": len(windows) * options.frames,
        "frames_once": len({frame for window in windows for frame in window.frames}),
        "cpu_s_a_minute_alone": round(statistics.median(alone) * minute, 1),
        "cpu_s_a_minute_shared": round(statistics.median(shared) * minute, 1),
        "ratio": round(statistics.median(one / other for one, other in zip(shared, alone, strict=True)), 3),
        "apart": float(abs(logits - expected).max() / expected.std()),
    }
    print(json.dumps(result, indent=2))


def build(options: argparse.Namespace) -> d2st.FewShotClassifier:
    """A classifier of random weights, which knows random classes."""
    torch.manual_seed(0)
    chosen = {}
    if options.adapter not in ("none", "full"):
        named = options.positions.replace(",", "").isdigit()
        positions = tuple(map(int, options.positions.split(","))) if named else options.positions
        chosen = {"positions": positions, "temporal_embedding": False}
    config = SYSTEMS[options.adapter](**chosen)
    setup = {"frames": options.frames, "pretrained": False, "image_size": options.image_size}
    encoder = d2st.adapt(options.backbone, config, **setup)
    with torch.no_grad():
        for adapter in encoder.adapters.parameters():
            adapter.add_(torch.randn_like(adapter) * 0.02)
    classifier = d2st.FewShotClassifier(encoder, precision=options.precision)
    for number in range(CLASSES):
        classifier.set_class(f"class {number}", torch.randn(SHOTS, options.frames, encoder.num_features))
    return classifier


if __name__ == "__main__":
    main()
