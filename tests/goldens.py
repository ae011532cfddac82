"""Reading the authors' numbers: tests/golden in this repository, and more of them where D2ST_GOLDEN points."""

import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent / "golden"
MORE = Path(os.environ["D2ST_GOLDEN"]) if os.environ.get("D2ST_GOLDEN") else None


def find(pattern: str) -> list[str]:
    """Names of the goldens that match, those in the repository first."""
    folders = [HERE] + ([MORE] if MORE else [])
    return sorted({path.stem for folder in folders for path in folder.glob(f"{pattern}.safetensors")})


def read(name: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """(description, tensors) of one golden."""
    folder = HERE if (HERE / f"{name}.safetensors").exists() else MORE
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


def weights(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None, prefix: str = "w/") -> dict[str, torch.Tensor]:
    """Entries under a prefix, without it, in a precision (None: as stored)."""
    return {key.removeprefix(prefix): value.to(dtype) for key, value in tensors.items() if key.startswith(prefix)}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference as a share of the largest magnitude."""
    ours, theirs = ours.detach().double().reshape(-1), theirs.detach().double().reshape(-1)
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()
