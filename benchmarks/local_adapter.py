"""What d2st-local costs more than D²ST-Adapter as published: CPU time of an adapter, or of a whole step, by parts.

    python benchmarks/local_adapter.py --precision bf16
    python benchmarks/local_adapter.py --whole --forms d2st additions d2st-local

Of one adapter of ViT-B/16: what it takes of the clips, (B, T, 197, 768), is made up, and nothing of the backbone runs.
With ``--whole`` of CLIP ViT-B/16 with an adapter in every block: a forward and a backward pass over clips of 8 frames,
with random weights, which change no time. "additions" is all of d2st-local but its 4x4 points in every frame. "folded"
is the same with the bias carried through PyTorch's attention kernel, as where points are many. The forms alternate, so
that other load on the machine hits all of them; figures are medians, and quartiles, of the ratios to the first form of
the same round.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor

import d2st
from d2st.utils.device import autocast

PUBLISHED, LOCAL = d2st.D2STConfig(), d2st.D2STLocalConfig()
TABLE_14 = (8, 2, 2)  # temporal points of 8 frames
FORMS = {
    "d2st": PUBLISHED,
    "values": replace(PUBLISHED, values=LOCAL.values),
    "position_bias": replace(PUBLISHED, position_bias=LOCAL.position_bias),
    "additions": replace(LOCAL, temporal=TABLE_14),
    "folded": replace(LOCAL, temporal=TABLE_14),
    "d2st-local": LOCAL,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--whole", action="store_true", help="of the backbone with its adapters")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="the first one is 1")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    build = encoder_of if options.whole else adapter_of
    models = {name: build(FORMS[name]) for name in options.forms}
    shape = (3, 224, 224) if options.whole else (197, 768)
    x = torch.randn(options.clips, 8, *shape, requires_grad=not options.whole)
    times = {name: [] for name in models}
    for _ in range(options.repeats + 1):  # the first is not counted
        for name, model in models.items():
            times[name].append(step(model, x, name == "folded", options.precision))
    for name, runs in times.items():
        pairs = list(zip(runs[1:], times[options.forms[0]][1:], strict=True))
        found = {"form": name, "step_ms": round(1000 * statistics.median(own[1] for own, _ in pairs), 1)}
        for part, place in (("forward", 0), ("step", 1)):
            quarters = statistics.quantiles([own[place] / base[place] for own, base in pairs], n=4, method="inclusive")
            low, found[f"{part}_ratio"], high = (round(ratio, 3) for ratio in quarters)
            found[f"{part}_quartiles"] = [low, high]
        print(json.dumps(found))
    print(json.dumps(vars(options) | {"torch": torch.__version__}))


def adapter_of(config: d2st.D2STConfig) -> Callable[[Tensor], Tensor]:
    """Build the adapter of one block."""
    encoder = d2st.adapt("vit_base_patch16_224", replace(config, positions=(5,)), pretrained=False)
    (adapter,) = (module for module in encoder.adapters.modules() if hasattr(module, "pathways"))
    return lambda x: adapter(x, (14, 14))


def encoder_of(config: d2st.D2STConfig) -> Callable[[Tensor], Tensor]:
    """Build a ViT with an adapter in every block."""
    return d2st.adapt("vit_base_patch16_clip_quickgelu_224", config, pretrained=False).train()


def step(model: Callable[[Tensor], Tensor], x: Tensor, folded: bool, precision: str) -> tuple[float, float]:
    """Return CPU seconds of a forward pass, and of it with its backward pass."""
    few = mock.patch("d2st.layers.deformable_attention._are_few", lambda k: False) if folded else nullcontext()
    with few:
        began = time.process_time()
        with autocast(torch.device("cpu"), precision):
            y = model(x)
        forward = time.process_time() - began
        y.float().square().mean().backward()
        return forward, time.process_time() - began


if __name__ == "__main__":
    main()
