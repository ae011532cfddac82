"""What ``--compile`` gains: time of compiled blocks beside the same encoder as it is, measured in one run.

    python benchmarks/compiled.py --backbone d2st_stills --clips 10 --threads 1
    python benchmarks/compiled.py --backbone vit_base_patch16_clip_quickgelu_224 --threads 1 --precision bf16

Both alternate, and the ratio of CPU seconds is the median over the rounds. "first" is how long the first pass takes,
which compiles. Weights and clips are random: they change nothing.
"""

import argparse
import json
import statistics
import time

import torch

import d2st
from d2st.adapters import SYSTEMS
from d2st.evaluation import cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch16_224")
    parser.add_argument("--adapter", default="d2st", choices=sorted(SYSTEMS))
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    encoders = {}
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        like = {"frames": options.frames, "image_size": options.image_size, "pretrained": False}
        encoders[name] = d2st.adapt(options.backbone, options.adapter, **like)
    encoders["compiled"].compile_blocks()
    video = torch.randn(options.clips, options.frames, 3, *encoders["eager"].image_size)
    result = vars(options) | {"torch": torch.__version__}
    for task in (cost.forward, cost.step):
        result[task.__name__] = compare(task, encoders, video, options)
    print(json.dumps(result, indent=2))


def compare(task: cost.Task, encoders: dict, video: torch.Tensor, options: argparse.Namespace) -> dict:
    """Time both in turns; gives seconds, their ratio, and how far their features are apart."""
    started = time.monotonic()
    cost.seconds(task, encoders["compiled"], video, options.precision)
    first = time.monotonic() - started
    cpu = {name: [] for name in encoders}
    for _ in range(options.rounds):
        for name, encoder in encoders.items():
            cpu[name].append(cost.seconds(task, encoder, video, options.precision).cpu)
    ratios = [compiled / eager for compiled, eager in zip(cpu["compiled"], cpu["eager"], strict=True)]
    with torch.no_grad():
        one, other = (encoder.eval()(video) for encoder in encoders.values())
    return {
        "first_s": round(first, 1),
        "cpu_s": {name: round(min(runs), 4) for name, runs in cpu.items()},
        "cpu_ratio": round(statistics.median(ratios), 3),
        "apart": float((one - other).abs().max() / one.abs().max()),
    }


if __name__ == "__main__":
    main()
