"""Whether bf16 changes a conclusion: the same clips and episodes in fp32 and in bf16.

    python benchmarks/precision.py --data clips --split split.yaml --adapter runs/first/best --shot 1 5
    python benchmarks/precision.py --data clips --split split.yaml --backbone vit_tiny_patch16_224 --weights FILE

For each number of shots a row: accuracy of both in percent, and the mean difference with the half width of its 95 %
interval over episodes, which is narrow because the episodes are the same. Above them how far features are apart (each
frame's, relative to its length, and their smallest cosine), and the CPU seconds of encoding.
"""

import argparse
import json
import time

import torch
from rich.console import Console
from rich.table import Table

import d2st
from d2st.data import sampling as frame_rules
from d2st.data.datasets import open_dataset
from d2st.data.episodes import EpisodeSampler
from d2st.evaluation.episodes import score
from d2st.features.encode import encode_clips
from d2st.utils.report import percent
from d2st.utils.statistics import mean_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--part", default="test", choices=["train", "val", "test"])
    parser.add_argument("--adapter", help="folder of a trained adapter; without it the frozen backbone")
    parser.add_argument("--backbone", default="d2st_stills")
    parser.add_argument("--weights")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--head", default="bi-mhm", help="without weights")
    parser.add_argument("--way", type=int, default=5)
    parser.add_argument("--shot", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoder = load(options)
    clips = open_dataset(options.data, options.split, options.part)
    sample, transform = frame_rules.build("uniform", encoder.frames), encoder.transform()
    head = d2st.heads.build(options.head).eval()
    found, seconds = {}, {}
    for precision in ("fp32", "bf16"):
        start = time.process_time()
        found[precision] = encode_clips(encoder, clips, sample, transform, precision=precision)
        seconds[precision] = round(time.process_time() - start, 1)
    exact, rough = (features.values.double() for features in found.values())  # (clips, T, D)
    apart = ((rough - exact).norm(dim=-1) / exact.norm(dim=-1)).mean().item()
    least = torch.cosine_similarity(rough, exact, dim=-1).min().item()
    table = Table("shots", "fp32", "bf16", "bf16 less fp32")
    result = {"arguments": vars(options), "torch": torch.__version__, "cpu_seconds": seconds, "shots": {}}
    for shot in options.shot:
        accuracies = []
        for features in found.values():
            labels = clips.labels[features.clips]
            sampler = EpisodeSampler(labels, options.way, shot, 1, options.seed, clips.classes)
            accuracies.append(score(features.embedded(head), sampler, head, options.episodes).accuracies)
        difference = accuracies[1] - accuracies[0]
        about = [(one.mean(), mean_interval(one)) for one in (*accuracies, difference)]
        table.add_row(
            str(shot), *(percent(*one) for one in about[:2]), f"{100 * about[2][0]:+.2f} ± {100 * about[2][1]:.2f}"
        )
        result["shots"][shot] = about
    Console().print(
        f"features: {apart:.1e} apart, smallest cosine {least:.5f}; CPU seconds of encoding {seconds}", table
    )
    print(json.dumps(result))


def load(options: argparse.Namespace) -> d2st.VideoEncoder:
    """Load the adapter, or adapt the backbone with none."""
    if options.adapter:
        return d2st.load(options.adapter, weights=options.weights)
    more = {"pretrained": options.weights or True, "image_size": options.image_size}
    return d2st.adapt(options.backbone, d2st.NoneConfig(), frames=8, **more)


if __name__ == "__main__":
    main()
