"""Every adapter on every family of backbones, exported to ONNX and compared with PyTorch: relative errors.

    python benchmarks/export.py --families vit,resnet-basic --adapters d2st,st

Models are the tests' small ones (tests/families.py) with random weights, adapters included.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import families

import d2st
from d2st.export import export_encoder

OPTIONS = {"dist": {"stride": 1, "width": 32}}  # so that it fits the small models
FRAMES = {"dualpath": 16}  # of a frameset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", default=",".join(families.BACKBONES))
    parser.add_argument("--adapters", default=",".join(d2st.adapters.SYSTEMS))
    arguments = parser.parse_args()
    systems = arguments.adapters.split(",")
    print("|  | " + " | ".join(systems) + " |\n| --- |" + " ---: |" * len(systems))
    for family in arguments.families.split(","):
        print(f"| {family} | " + " | ".join(error(family, system) for system in systems) + " |", flush=True)


def error(family: str, system: str) -> str:
    """Relative error, or why there is none."""
    torch.manual_seed(0)
    config = d2st.adapters.SYSTEMS[system](**OPTIONS.get(system, {}))
    try:
        encoder = d2st.adapt(families.BACKBONES[family](), config, frames=FRAMES.get(system, 8), image_size=32)
    except d2st.D2STError:
        return "does not fit"
    families.move(encoder)
    with tempfile.TemporaryDirectory() as folder:
        try:
            return f"{export_encoder(encoder, Path(folder) / 'encoder.onnx')['check']['relative_error']:.1e}"
        except d2st.D2STError as refusal:
            print(refusal, file=sys.stderr)
            return "refused"


if __name__ == "__main__":
    main()
