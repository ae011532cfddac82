"""What the adapters cost: forward and training step as ratios to the same frozen backbone, measured in one run.

    python benchmarks/encoder.py --backbone vit_base_patch16_clip_quickgelu_224 --frames 8 --threads 2

The frozen backbone's "step" back-propagates to its input, which is what any adapter at its first block must do.
Adapted and frozen runs alternate, so that other load on the machine hits both; the ratio of CPU seconds is the figure
that such load disturbs least. Weights are random: they do not matter for time.
"""

import argparse
import json
import resource
import statistics
import time

import torch

import d2st


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_clip_quickgelu_224")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    setup = dict(frames=options.frames, pretrained=False, image_size=options.image_size)
    encoders = {
        "frozen": d2st.adapt(options.backbone, d2st.NoneConfig(), **setup),
        "d2st": d2st.adapt(options.backbone, d2st.D2STConfig(), **setup),
    }
    height, width = encoders["frozen"].image_size
    video = torch.randn(options.clips, options.frames, 3, height, width)

    def forward(encoder):
        with torch.no_grad():
            encoder(video)

    def step(encoder):
        encoder(video.requires_grad_(encoder.config.name == "none")).square().mean().backward()

    table = {}
    for task in (forward, step):
        wall, cpu = {name: [] for name in encoders}, {name: [] for name in encoders}
        for repeat in range(options.repeats + 1):
            for name, encoder in encoders.items():
                start, used = time.perf_counter(), cpu_seconds()
                task(encoder)
                if repeat:  # the first is a warm-up
                    wall[name].append(time.perf_counter() - start)
                    cpu[name].append(cpu_seconds() - used)
        table[task.__name__] = {
            "wall_s": {name: round(min(values), 4) for name, values in wall.items()},
            "cpu_s": {name: round(min(values), 4) for name, values in cpu.items()},
            "wall_ratio": round(statistics.median(a / b for a, b in zip(wall["d2st"], wall["frozen"], strict=True)), 3),
            "cpu_ratio": round(statistics.median(a / b for a, b in zip(cpu["d2st"], cpu["frozen"], strict=True)), 3),
        }
    kept = {name: round(kept_for_backward(encoder, video) / 2**30, 3) for name, encoder in encoders.items()}
    print(json.dumps(vars(options) | table | {"kept_for_backward_gib": kept, "torch": torch.__version__}, indent=2))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def kept_for_backward(encoder, video) -> int:
    """Bytes of activations that autograd keeps; storages are counted once and parameters not at all."""
    parameters = {p.untyped_storage().data_ptr() for p in encoder.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = encoder(video.requires_grad_(encoder.config.name == "none"))
    del output
    return sum(storages.values())


if __name__ == "__main__":
    main()
