"""Time what the adapters of docs/results/adapters.md cost, beside the frozen backbone, as ``d2st bench`` does.

    python benchmarks/dynamics_cost.py --repeats 25

Adapters and their settings are those of study ``real`` of ``dynamics.yaml``, on ViT-Tiny at 112 px and a clip of 8
frames, with one thread. Times are CPU times.
"""

import argparse

from dynamics import cells_of, read_plan, settings_of

from d2st.adapters import SYSTEMS
from d2st.commands.bench import bench
from d2st.commands.tool_options import BenchConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    how = {"image_size": 112, "adapters": "none", "repeats": parser.parse_args().repeats, "device": "cpu", "threads": 1}
    cells = {c["system"]: c for c in cells_of(read_plan(), "real") if c["data"] == "msr-action3d"}
    del cells["frozen"]
    lines = {}
    for cell in cells.values():
        config = SYSTEMS[cell["adapter"]](**settings_of(cell))
        rows = bench(BenchConfig(backbone=cell["backbone"], frames=cell["frames"], adapter=config, **how))["adapters"]
        for row in rows[1:]:  # the first is the frozen backbone
            ratios = [f"{row[task]['cpu']['ratio']:.2f}×" for task in ("forward", "step")]
            lines[row["adapter"]] = f"| {row['adapter']} | {row['parameters']['trainable']:,} | {' | '.join(ratios)} |"
    print("| adapter | parameters | forward | step |", "| --- | ---: | ---: | ---: |", *lines.values(), sep="\n")


if __name__ == "__main__":
    main()
