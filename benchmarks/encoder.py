"""What D²ST-Adapter costs: time and kept activations beside the same frozen backbone, measured in one run.

    python benchmarks/encoder.py --backbone vit_base_patch16_clip_quickgelu_224 --frames 8 --threads 2 --owners

The frozen backbone's "step" back-propagates to its input, which is what any adapter at its first block must do.
"frozen" is the backbone as d2st.adapt leaves it, with layers that keep less for the backward pass (src/d2st/lean.py);
"ordinary" is the same with timm's own layers. The encoders alternate, so that other load on the machine hits all of
them; the ratio of CPU seconds is the figure that such load disturbs least. Weights are random: they change nothing.

Kept is what autograd holds when the forward pass is over, each storage once, without parameters and input. Peak is the
most that all tensors of a step take at once, gradients and passing maps included. Both are exact on any machine;
docs/cost.md says where they come from.
"""

import argparse
import json
import re
import statistics
from collections import Counter

import torch
from torch import Tensor, nn

import d2st
from d2st.evaluation import cost as measure

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_clip_quickgelu_224")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each; 0 measures memory alone")
    parser.add_argument("--owners", action="store_true", help="also list what keeps the memory, in MiB a clip")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    setup = dict(frames=options.frames, pretrained=False, image_size=options.image_size)
    encoders = {
        "frozen": d2st.adapt(options.backbone, d2st.NoneConfig(), **setup),
        "ordinary": d2st.adapt(options.backbone, d2st.FullConfig(), **setup).requires_grad_(False),
        "d2st": d2st.adapt(options.backbone, d2st.D2STConfig(), **setup),
    }
    video = torch.randn(options.clips, options.frames, 3, *encoders["frozen"].image_size)

    result = vars(options) | {"torch": torch.__version__}
    if options.repeats:
        result |= {
            task.__name__: times(task, encoders, video, options.repeats) for task in (measure.forward, measure.step)
        }
    owners = {name: kept_for_backward(encoder, video) for name, encoder in encoders.items()}
    peaks = {name: measure.peak_memory(encoder.eval(), video) for name, encoder in encoders.items()}
    encoders["d2st"].set_grad_checkpointing()
    owners["d2st_checkpointing"] = kept_for_backward(encoders["d2st"], video)
    peaks["d2st_checkpointing"] = measure.peak_memory(encoders["d2st"], video)
    result["kept_gib_a_clip"] = {name: gib_a_clip(sum(kept.values()), options) for name, kept in owners.items()}
    result["peak_gib_a_clip"] = {name: gib_a_clip(peak, options) for name, peak in peaks.items()}
    if options.owners:
        result["owners_mib_a_clip"] = {
            name: {owner: round(size / MIB / options.clips, 2) for owner, size in kept.most_common() if size > MIB / 10}
            for name, kept in owners.items()
        }
    print(json.dumps(result, indent=2))


def times(task, encoders: dict[str, nn.Module], video: Tensor, repeats: int) -> dict:
    """Seconds of each encoder, and the adapted one's as multiples of the others': medians over rounds."""
    wall, cpu = {name: [] for name in encoders}, {name: [] for name in encoders}
    for round_ in range(repeats + 1):
        for name, encoder in encoders.items():
            seconds = measure.seconds(task, encoder, video)
            if round_:  # the first is a warm-up
                wall[name].append(seconds.wall)
                cpu[name].append(seconds.cpu)
    table = {
        "wall_s": {n: round(min(v), 4) for n, v in wall.items()},
        "cpu_s": {n: round(min(v), 4) for n, v in cpu.items()},
    }
    for base in ("frozen", "ordinary"):
        for clock, runs in (("wall", wall), ("cpu", cpu)):
            pairs = zip(runs["d2st"], runs[base], strict=True)
            table[f"{clock}_ratio_to_{base}"] = round(statistics.median(a / b for a, b in pairs), 3)
    return table


def kept_for_backward(encoder: nn.Module, video: Tensor) -> Counter:
    """Bytes of activations that autograd keeps, by the module that ran when they were saved; numbers of blocks as *."""
    known = {t.untyped_storage().data_ptr() for t in (*encoder.parameters(), *encoder.buffers(), video)}
    running, storages, handles = [], {}, []

    def enter(name, module, args):
        running.append(re.sub(r"\d+", "*", name))

    def leave(module, args, output):
        running.pop()

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages.setdefault(storage.data_ptr(), (running[-1], storage.nbytes()))
        return tensor

    for name, module in encoder.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *a, name=name: enter(name, *a), prepend=True))
        handles.append(module.register_forward_hook(leave))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = encoder(video.detach().requires_grad_(not encoder.trainable_parameters()))
    del output
    for handle in handles:
        handle.remove()
    owners = Counter()
    for owner, size in storages.values():
        owners[owner] += size
    return owners


def gib_a_clip(size: int, options: argparse.Namespace) -> float:
    return round(size / 2**30 / options.clips, 4)


if __name__ == "__main__":
    main()
