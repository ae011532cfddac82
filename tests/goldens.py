"""Reading the authors' numbers: tests/golden in this repository, and more in the folders of D2ST_GOLDEN (a:b)."""

import json
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
    """Names of the goldens that match, to parametrise a test with; a skip that says why where there are none."""
    names = sorted({path.stem for folder in FOLDERS for path in folder.glob(f"{pattern}.safetensors")})
    why = f"no golden {pattern} in the repository; D2ST_GOLDEN names folders with more of them"
    return names or [pytest.param(pattern, marks=pytest.mark.skip(reason=why))]


def read(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """(description, tensors) of one golden."""
    folder = next(folder for folder in FOLDERS if (folder / f"{name}.safetensors").exists())
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


def weights(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, prefix: str = "w/") -> dict[str, torch.Tensor]:
    """Entries under a prefix, without it, in a precision (None: as stored)."""
    return {key.removeprefix(prefix): value.to(dtype) for key, value in tensors.items() if key.startswith(prefix)}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference as a share of the largest magnitude."""
    ours, theirs = ours.detach().double().reshape(-1), theirs.detach().double().reshape(-1)
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()
