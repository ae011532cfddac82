"""Time what the adapters of docs/results/adapters.md cost, beside the frozen backbone.

    python benchmarks/dynamics_cost.py --repeats 20

Adapters and their settings are those of study ``real`` of ``dynamics.yaml`` on ViT-Tiny at 112 px, on a clip of 8
frames, with one thread and random weights. A step is a forward and a backward pass without the optimizer; the frozen
backbone's goes back to its input. Each run comes right after one of the frozen backbone, and the multiple is the median
of these pairs. Adapters that can be merged into the backbone have a second line.
"""

import argparse
import statistics

import torch
from dynamics import cells_of, read_plan, settings_of
from torch import nn

import d2st
from d2st.adapters import SYSTEMS
from d2st.backbones.build import build
from d2st.evaluation import cost

FRAMES, SIZE = 8, 112
TASKS = (cost.forward, cost.step)


def encoders(backbone: nn.Module) -> dict[str, d2st.VideoEncoder]:
    """Plug each adapter of the study into a copy of the backbone that shares its weights."""
    cells = cells_of(read_plan(), "real")
    settings = {c["system"]: (c["adapter"], settings_of(c)) for c in cells if c["data"] == "msr-action3d"}
    found = {"none": ("none", {}), **settings}
    del found["frozen"]
    built = {}
    for system, (adapter, own) in found.items():
        config = SYSTEMS[adapter](**own)
        built[system] = d2st.adapt(cost.shared_copy(backbone), config, frames=FRAMES, image_size=SIZE)
        if built[system].mergeable:
            again = d2st.adapt(cost.shared_copy(backbone), config, frames=FRAMES, image_size=SIZE)
            built[f"{system}, merged"] = again.merge()
    return built


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    built = encoders(build("vit_tiny_patch16_224", False, SIZE))
    video = torch.randn(1, FRAMES, 3, SIZE, SIZE)
    frozen, ratios = built["none"], {}
    for repeat in range(-1, options.repeats):  # the first warms up
        for system, encoder in built.items():
            for task in TASKS:
                before, own = (cost.seconds(task, each, video, "fp32").cpu for each in (frozen, encoder))
                if repeat >= 0:
                    ratios.setdefault((system, task), []).append((before, own))
    print("| adapter | parameters | forward | step |\n| --- | ---: | ---: | ---: |")
    for system, encoder in built.items():
        told = [f"{statistics.median(own / before for before, own in ratios[system, task]):.2f}×" for task in TASKS]
        print(f"| {system} | {encoder.parameter_count()[0]:,} | {' | '.join(told)} |")
    least = [1000 * min(own for _, own in ratios["none", task]) for task in TASKS]
    print(f"\nThe frozen backbone takes {least[0]:.0f} ms for a forward pass and {least[1]:.0f} ms for a step.")


if __name__ == "__main__":
    main()
