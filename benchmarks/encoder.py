"""What D²ST-Adapter costs: time and kept activations beside the same frozen backbone, measured in one run.

    python benchmarks/encoder.py --backbone vit_base_patch16_clip_quickgelu_224 --frames 8 --threads 2 --owners
    python benchmarks/encoder.py --threads 1 --precision bf16 --grad-checkpointing
    python benchmarks/encoder.py --threads 1 --precision fp32 bf16

The frozen backbone's "step" back-propagates to its input, which is what any adapter at its first block must do.
"frozen" is the backbone as d2st.adapt leaves it, with layers that keep less for the backward pass
(src/d2st/layers/frozen.py); "ordinary" is the same with timm's own layers. "graph" is "d2st" with an ordinary graph in
place of adapters that run again in the backward pass (src/d2st/layers/checkpointed.py). "halves" and "d2st_halves" are
"frozen" and "d2st" with rounded weights (``half_weights``); they are there in bf16. With two precisions, each one's
seconds are also given as multiples of the first's.

The encoders alternate, so that other load on the machine hits all of them; the ratio of CPU seconds is the figure that
such load disturbs least. Weights are random: they change nothing.

Kept is what autograd holds when the forward pass is over, each storage once, without parameters and input. Peak is the
most that all tensors of a step take at once, gradients and passing maps included. Both are exact on any machine;
docs/cost.md says where they come from.
"""

import argparse
import contextlib
import copy
import json
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

import d2st
from d2st.evaluation import cost as measure
from d2st.utils.device import autocast

MIB = 2**20
PARTNERS = {"halves": "frozen", "d2st_halves": "d2st"}  # in the other precision


class Subject(NamedTuple):
    """An encoder, and how it is run."""

    encoder: nn.Module
    ordinary_graph: bool = False
    checkpointing: bool = False
    precisions: tuple[str, ...] = ("fp32", "bf16")

    @contextlib.contextmanager
    def active(self) -> Iterator[nn.Module]:
        self.encoder.set_grad_checkpointing(self.checkpointing)
        with contextlib.ExitStack() as stack:
            if self.ordinary_graph:
                stack.enter_context(mock.patch("d2st.layers.checkpointed.transformed", lambda: True))
            yield self.encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_base_patch16_clip_quickgelu_224")
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=["fp32", "bf16"], nargs="+", default=["fp32"])
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each; 0 measures memory alone")
    parser.add_argument("--grad-checkpointing", action="store_true", help="also time adapters with checkpointing")
    parser.add_argument("--owners", action="store_true", help="also list what keeps the memory, in MiB a clip")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    torch.manual_seed(0)
    setup = dict(frames=options.frames, pretrained=False, image_size=options.image_size)
    adapted = d2st.adapt(options.backbone, d2st.D2STConfig(), **setup)
    halves = d2st.adapt(options.backbone, d2st.NoneConfig(), **setup).half_weights()
    subjects = {
        "frozen": Subject(d2st.adapt(options.backbone, d2st.NoneConfig(), **setup)),
        "ordinary": Subject(d2st.adapt(options.backbone, d2st.FullConfig(), **setup).requires_grad_(False)),
        "d2st": Subject(adapted),
        "graph": Subject(adapted, ordinary_graph=True),
        "halves": Subject(halves, precisions=("bf16",)),
        "d2st_halves": Subject(copy.deepcopy(adapted).half_weights(), precisions=("bf16",)),
    }
    checkpointed = {
        f"{name}_checkpointing": subject._replace(checkpointing=True)
        for name, subject in subjects.items()
        if subject.encoder is adapted
    }
    video = torch.randn(options.clips, options.frames, 3, *adapted.image_size)

    result = vars(options) | {"torch": torch.__version__}
    timed = subjects | checkpointed if options.grad_checkpointing else subjects
    if options.repeats:
        result["forward"] = times(measure.forward, subjects, video, options)
        result["step"] = times(measure.step, timed, video, options)
    for precision in options.precision:
        result[precision] = memory(subjects | checkpointed, video, precision, options)
    print(json.dumps(result, indent=2))


def memory(subjects: dict[str, Subject], video: Tensor, precision: str, options: argparse.Namespace) -> dict:
    """Memory of each in a precision, GiB a clip; MiB of every owner where that is asked for."""
    owners, peaks = {}, {}
    for name, subject in subjects.items():
        if precision in subject.precisions:
            with subject.active() as encoder:
                owners[name] = kept_for_backward(encoder, video, precision)
                peaks[name] = measure.peak_memory(encoder, video, precision)
    found = {
        "kept_gib_a_clip": {name: gib_a_clip(sum(kept.values()), options) for name, kept in owners.items()},
        "peak_gib_a_clip": {name: gib_a_clip(peak, options) for name, peak in peaks.items()},
    }
    if options.owners:
        found["owners_mib_a_clip"] = {
            name: {owner: round(size / MIB / options.clips, 2) for owner, size in kept.most_common() if size > MIB / 10}
            for name, kept in owners.items()
        }
    return found


def times(task, subjects: dict[str, Subject], video: Tensor, options: argparse.Namespace) -> dict:
    """Seconds of each in each precision, and multiples: medians over rounds.

    Returns:
        For every precision, seconds and multiples of those of "frozen", "ordinary" and "d2st"; with two precisions,
        also the second's CPU seconds as multiples of the first's, those of rounded weights beside the ordinary ones.
    """
    runs = [(name, precision) for precision in options.precision for name in subjects]
    runs = [(name, precision) for name, precision in runs if precision in subjects[name].precisions]
    wall, cpu = {run: [] for run in runs}, {run: [] for run in runs}
    for round_ in range(options.repeats + 1):
        for name, precision in runs:
            with subjects[name].active() as encoder:
                seconds = measure.seconds(task, encoder, video, precision)
            if round_:  # the first is a warm-up
                wall[name, precision].append(seconds.wall)
                cpu[name, precision].append(seconds.cpu)
    table = {}
    for precision in options.precision:
        own = [name for name, ran in runs if ran == precision]
        table[precision] = {
            "wall_s": {name: round(min(wall[name, precision]), 4) for name in own},
            "cpu_s": {name: round(min(cpu[name, precision]), 4) for name in own},
        }
        for base in ("frozen", "ordinary", "d2st"):
            for clock, spent in (("wall", wall), ("cpu", cpu)):
                ratios = {name: median_ratio(spent[name, precision], spent[base, precision]) for name in own}
                table[precision][f"{clock}_ratio_to_{base}"] = ratios
    first, *others = options.precision
    for other in others:
        table[f"cpu_ratio_{other}_to_{first}"] = {
            name: median_ratio(cpu[name, other], cpu[PARTNERS.get(name, name), first])
            for name, ran in runs
            if ran == other
        }
    return table


def median_ratio(runs: list[float], base: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(runs, base, strict=True)), 3)


def kept_for_backward(encoder: nn.Module, video: Tensor, precision: str) -> Counter:
    """Bytes of activations that autograd keeps, by the module that ran when they were saved; numbers of blocks as *."""
    known = {t.untyped_storage().data_ptr() for t in (*encoder.parameters(), *encoder.buffers(), video)}
    names = {module: re.sub(r"\d+", "*", name) for name, module in encoder.named_modules()}
    running, storages = [], {}
    call = nn.Module.__call__

    def named_call(module, *args, **kwargs):  # no hooks, because adapters with hooks take the ordinary graph
        running.append(names.get(module, running[-1] if running else ""))
        try:
            return call(module, *args, **kwargs)
        finally:
            running.pop()

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages.setdefault(storage.data_ptr(), (running[-1], storage.nbytes()))
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with mock.patch.object(nn.Module, "__call__", named_call), hooks, autocast(video.device, precision):
        output = encoder(video.detach().requires_grad_(not encoder.trainable_parameters()))
    del output
    owners = Counter()
    for owner, size in storages.values():
        owners[owner] += size
    return owners


def gib_a_clip(size: int, options: argparse.Namespace) -> float:
    return round(size / 2**30 / options.clips, 4)


if __name__ == "__main__":
    main()
