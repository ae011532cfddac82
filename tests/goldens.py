"""Reading the authors' numbers: tests/golden in this repository, and more in the folders of D2ST_GOLDEN (a:b)."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

FOLDERS = [
    Path(__file__).parent / "golden",
    *map(Path, filter(None, os.environ.get("D2ST_GOLDEN", "").split(os.pathsep))),
]


def find(pattern: str) -> list:
    """Names of the goldens that match, to parametrize a test with; a skip that says why where there are none."""
    names = sorted({path.stem for folder in FOLDERS for path in folder.glob(f"{pattern}.safetensors")})
    why = f"no golden {pattern} in the repository; D2ST_GOLDEN names folders with more of them"
    return names or [pytest.param(pattern, marks=pytest.mark.skip(reason=why))]


def read(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """(description, tensors) of one golden, a whole one before a small one of the same name.

    Numbers that a small one leaves out (``golden/cut.py``) are NaN, and none of the comparisons here looks at them.
    """
    files = [folder / f"{name}.json" for folder in FOLDERS if (folder / f"{name}.safetensors").exists()]
    found = [(json.loads(file.read_text()), load_file(file.with_suffix(".safetensors"))) for file in files]
    about, tensors = min(found, key=lambda pair: "kept" in pair[0])
    kept = about.get("kept", {"shapes": {}})
    for key, shape in kept["shapes"].items():
        whole = torch.full((math.prod(shape),), torch.nan, dtype=tensors[key].dtype)
        whole[:: kept["every"]] = tensors[key]
        tensors[key] = whole.view(shape)
    return about, tensors


def weights(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, prefix: str = "w/") -> dict[str, torch.Tensor]:
    """Entries under a prefix, without it, in a precision (None: as stored)."""
    return {key.removeprefix(prefix): value.to(dtype) for key, value in tensors.items() if key.startswith(prefix)}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference as a share of the largest magnitude."""
    return largest_difference(ours, theirs) / max(largest(theirs), 1e-30)


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Over the numbers that the golden has."""
    ours, theirs = ours.detach().cpu().double().reshape(-1), theirs.detach().double().reshape(-1)
    there = ~theirs.isnan()
    return (ours[there] - theirs[there]).abs().max().item()


def largest(golden: torch.Tensor) -> float:
    """Largest magnitude of the numbers that a golden has."""
    return golden.detach().double().abs().nan_to_num(0.0).max().item()
