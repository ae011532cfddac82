"""All that a training run is at an episode, in one file that is replaced in one step."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .errors import D2STError
from .files import write_safetensors


@dataclass
class TrainState:
    """How far a run is. What is drawn, frames and augmentation follow from the seed and the index of the episode or
    batch, so there is no state of a random generator or a loader to keep; and a state is only ever saved between
    optimiser steps.

    Attributes:
        done: episodes, or batches of clips, that the weights have seen.
        best_accuracy: on the validation part, 0..1; None before the first validation.
        best_at: after how many that was.
        seconds: spent on training, over all starts of the run.
        bad: clips that could not be read, of training and validation, at any start of the run: id -> reason.
        clips: digest of the training clips.
        owed: whether the validation that is due after ``done`` is still to be made.
        skipped: steps that the fp16 loss scaler did not take, because their gradients overflowed.
    """

    done: int = 0
    best_accuracy: float | None = None
    best_at: int = 0
    seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)
    clips: str = ""
    owed: bool = False
    skipped: int = 0


def save(path: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict) -> None:
    """Write the trained tensors, the optimiser's and the state to a safetensors file.

    Args:
        path: the file.
        state: goes into the file's metadata as JSON.
        model: the bare module, with an ``encoder``, and ``parts()`` that names what else has a state.
        optimizer: its state tensors are stored under the names of the parameters they belong to.
        scaler: state of the fp16 loss scaler, numbers only; empty without one.
    """
    kept = {f"{kind}/{name}": tensor for kind, own in tensors(model).items() for name, tensor in own.items()}
    names = _names(model, optimizer)
    for index, slots in optimizer.state_dict()["state"].items():
        kept |= {f"optimizer/{slot}/{names[index]}": torch.as_tensor(value) for slot, value in slots.items()}
    write_safetensors(path, kept, {"state": json.dumps(asdict(state)), "scaler": json.dumps(scaler)})


def tensors(model: nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """What is trained of a bare module, by the name of its part: the adapter, and what ``parts()`` names."""
    return {"adapter": model.encoder.adapter_state_dict()} | {
        kind: part.state_dict() for kind, part in model.parts().items()
    }


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[TrainState, dict]:
    """Put a saved run back into its model and optimiser.

    Returns:
        The state, and that of the fp16 loss scaler.

    Raises:
        D2STError: the file cannot be read or belongs to another model.
    """
    groups: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in ("adapter", *model.parts(), "optimizer")}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            for key in file.keys():  # noqa: SIM118, a safe_open is not a mapping
                kind, name = key.split("/", 1)
                groups[kind][name] = file.get_tensor(key)
        state, scaler = TrainState(**json.loads(metadata["state"])), json.loads(metadata["scaler"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise D2STError(
            f"The state of the run, {path}, cannot be read ({error}); start over with overwrite, or give another out."
        ) from error
    model.encoder.load_adapter_state_dict(groups["adapter"])
    for kind, part in model.parts().items():
        part.load_state_dict(groups[kind])
    names = _names(model, optimizer)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in groups["optimizer"].items():
        slot, name = key.split("/", 1)
        if name not in names:
            raise D2STError(f"The state of the run, {path}, has a parameter '{name}' and the model has not.")
        slots.setdefault(names.index(name), {})[slot] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state, scaler


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimiser's parameters in its own order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
