"""The adapter that CONTRIBUTING.md shows is real code: it runs, trains, and fits a ViT and a CNN."""

import re
from pathlib import Path

import pytest
import timm
import torch

import d2st

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
IMPORTS = """
from dataclasses import dataclass
from typing import ClassVar
import torch
from torch import nn
from d2st.adapters.base import AdapterConfig, Positions, select_sites
from d2st.hooks import Insertion
"""


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_the_example_adapter(name):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {"__name__": "example"}
    exec(compile(IMPORTS + example, "CONTRIBUTING.md", "exec"), names)
    size = {"img_size": 32} if name.startswith("vit") else {}
    encoder = d2st.adapt(
        timm.create_model(name, num_classes=0, **size), names["ScaleConfig"](), frames=2, image_size=32
    )
    video = torch.randn(1, 2, 3, 32, 32)
    (encoder(video) * torch.randn(encoder.num_features)).sum().backward()  # the plain sum of a LayerNorm is constant
    assert len(encoder.trainable_parameters()) == len(encoder.adapters) > 0
    assert all(p.grad.abs().sum() > 0 for p in encoder.trainable_parameters())


def test_the_map_names_files_that_exist():
    root = Path(d2st.__file__).parent
    for path in re.findall(r"`((?:\w+/)*\w+\.py)`", TEXT):
        if not path.startswith("tests/"):
            assert (root / path).exists(), f"CONTRIBUTING.md names {path}, which is not in the package"
