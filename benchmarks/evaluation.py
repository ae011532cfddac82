"""Where the time of an evaluation goes: decode, encode, match, against the released code's way of doing it.

    python benchmarks/evaluation.py --data clips/ --backbone vit_tiny_patch16_224 --episodes 10000

The baseline is the released loop: each episode decodes and encodes all of its clips again and matches them alone. It
is run on a few episodes and its time per episode is scaled; ours is run whole. Also timed: 10,000 episodes of matching
on random features of 2,400 clips, 8 frames and 768 channels (SSv2-Small's test set at ViT-B/16). Weights are random:
they do not matter for time.
"""

import argparse
import json
import time

import numpy as np
import torch

import d2st
from d2st.data import sampling as frame_rules
from d2st.data.datasets import open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.evaluation.episodes import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of class folders")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--shot", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--baseline-episodes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    encoder = d2st.adapt(
        options.backbone,
        frames=options.frames,
        pretrained=options.backbone == "d2st_stills",
        image_size=options.image_size,
    )
    head = d2st.heads.build("bi-mhm")
    clips = open_dataset(options.data)
    sample = frame_rules.build("uniform", options.frames)
    transform = encoder.transform()
    sampler = EpisodeSampler(clips.labels, 5, options.shot, 1, 0, clips.classes)

    def read(i):
        return transform(clips.read(i, sample))

    @torch.no_grad()
    def encode(videos):
        return torch.cat([encoder(batch) for batch in torch.stack(videos).split(8)])  # (n, T, D)

    clock = Clock()
    for index in range(options.baseline_episodes):
        episode = sampler.draw(index)
        videos = clock("decode", lambda e=episode: [read(i) for i in [*e.support, *e.query]])
        features = clock("encode", lambda v=videos: encode(v))
        support, query = features.split([len(episode.support), len(episode.query)])
        clock("match", lambda s=support, q=query: head(s, torch.from_numpy(sampler.support_labels), q).argmax(-1))
    baseline = {part: s * options.episodes / options.baseline_episodes for part, s in clock.seconds.items()}

    clock, features = Clock(), []
    for first in range(0, len(clips), 8):
        videos = clock("decode", lambda f=first: [read(i) for i in range(f, min(f + 8, len(clips)))])
        features.append(clock("encode", lambda v=videos: encode(v)))
    values = torch.cat(features).unsqueeze(1)  # (N, 1, T, D)
    clock("match", lambda: score(values, sampler, head, options.episodes))
    ours = clock.seconds

    labels, paper = np.repeat(np.arange(24), 100), {}
    large = torch.randn(2400, 1, 8, 768)
    for shot in (1, 5):
        clock = Clock()
        clock("match", lambda k=shot: score(large, EpisodeSampler(labels, 5, k, 1, 0), head, 10_000))
        paper[f"{shot}-shot"] = round(clock.seconds["match"], 2)
    report = {
        "clips": len(clips),
        "once_per_clip_s": {part: round(s, 2) for part, s in ours.items()},
        "once_per_episode_s_extrapolated": {part: round(s, 1) for part, s in baseline.items()},
        "ratio": round(sum(baseline.values()) / sum(ours.values()), 1),
        "match_10000_episodes_2400x8x768_s": paper,
        "torch": torch.__version__,
    }
    print(json.dumps(vars(options) | report, indent=2))


class Clock:
    """Sums seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, part, work):
        start = time.perf_counter()
        result = work()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
        return result


if __name__ == "__main__":
    main()
