"""What d2st-local costs more than D²ST-Adapter as published: CPU time of one adapter with each part, and with all.

    python benchmarks/local_adapter.py --precision bf16

An adapter of ViT-B/16 and what it takes of the clips, (B, T, 197, 768), are made up; nothing of the backbone runs.
"additions" is all of d2st-local but its 4x4 points in every frame. "folded" is the same with the bias carried through
PyTorch's attention kernel, as where points are many. The forms alternate, so that other load on the machine hits all of
them; figures are medians of the ratios to the first form of the same round.
"""

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import torch
from torch import Tensor, nn

import d2st
from d2st.utils.device import autocast

PUBLISHED, LOCAL = d2st.D2STConfig(positions=(5,)), d2st.D2STLocalConfig(positions=(5,))
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
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    adapters = {name: adapter_of(config) for name, config in FORMS.items()}
    x = torch.randn(options.clips, 8, 197, 768, requires_grad=True)
    times = {name: [] for name in adapters}
    for _ in range(options.repeats + 1):  # the first is not counted
        for name, adapter in adapters.items():
            times[name].append(step(adapter, x, name == "folded", options.precision))
    for name, runs in times.items():
        pairs = list(zip(runs[1:], times["d2st"][1:], strict=True))
        found = {
            "form": name,
            "step_ms": round(1000 * statistics.median(own[1] for own, _ in pairs), 1),
            "forward_ratio": round(statistics.median(own[0] / base[0] for own, base in pairs), 3),
            "step_ratio": round(statistics.median(own[1] / base[1] for own, base in pairs), 3),
        }
        print(json.dumps(found))
    print(json.dumps(vars(options) | {"torch": torch.__version__}))


def adapter_of(config: d2st.D2STConfig) -> nn.Module:
    """Build the adapter of one block."""
    encoder = d2st.adapt("vit_base_patch16_224", config, pretrained=False)
    (adapter,) = (module for module in encoder.adapters.modules() if hasattr(module, "pathways"))
    return adapter


def step(adapter: nn.Module, x: Tensor, folded: bool, precision: str) -> tuple[float, float]:
    """Return CPU seconds of a forward pass, and of it with its backward pass."""
    few = mock.patch("d2st.layers.deformable_attention._are_few", lambda k: False) if folded else nullcontext()
    with few:
        began = time.process_time()
        with autocast(torch.device("cpu"), precision):
            y = adapter(x, (14, 14))
        forward = time.process_time() - began
        y.float().square().mean().backward()
        return forward, time.process_time() - began


if __name__ == "__main__":
    main()
