"""All that a training run is at an episode, in one file that is replaced in one step."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..errors import D2STError
from ..utils.config import build, check_fields, option
from ..utils.files import write_safetensors
from ..utils.tensor_file import read_tensors
from ..utils.versioned_json import of_format, parse

SLOTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam and AdamW


@dataclass
class TrainState:
    """How far a run is. What is drawn, frames and augmentation follow from the seed and the index of the episode or
    batch, so there is no state of a random generator or a loader to keep; and a state is only ever saved between
    optimizer steps.

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

    done: int = option(0, least=0)
    best_accuracy: float | None = option(None, least=0, most=1)
    best_at: int = option(0, least=0)
    seconds: float = option(0.0, least=0)
    bad: dict[str, str] = field(default_factory=dict)
    clips: str = ""
    owed: bool = False
    skipped: int = option(0, least=0)

    def __post_init__(self) -> None:
        check_fields(self)


def save(path: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict) -> None:
    """Write the trained tensors, the optimizer's and the state to a safetensors file.

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
    """Put a saved run back into its model and optimizer.

    Returns:
        The state, and that of the fp16 loss scaler.

    Raises:
        D2STError: the file cannot be read or belongs to another model.
    """
    what, remedy = "state of the run", "start over with overwrite, or give another out"
    where = f"The {what} '{path}'"
    found, metadata = read_tensors(path, what=what, remedy=remedy)
    state, scaler = (_metadata(metadata, key, where, remedy) for key in ("state", "scaler"))
    state = build(TrainState, state, where)
    if not all(isinstance(number, int | float) for number in scaler.values()):
        raise D2STError(f"{where}: its scaler holds more than numbers; {remedy}.")
    groups: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in ("adapter", *model.parts(), "optimizer")}
    for key, tensor in found.items():
        kind, _, name = key.partition("/")
        if kind not in groups:
            raise D2STError(f"{where} has {key[:80]!r}, which is no part of this model; {remedy}.")
        groups[kind][name] = tensor
    own = tensors(model)
    for kind, tensors_of in own.items():
        fits = groups[kind].keys() == tensors_of.keys() and all(
            tensor.shape == groups[kind][name].shape for name, tensor in tensors_of.items()
        )
        if not fits:
            raise D2STError(f"{where} is of another model: the tensors of its {kind} are not this one's; {remedy}.")
    slots = _slots(groups["optimizer"], model, optimizer, where, remedy)
    model.encoder.load_adapter_state_dict(groups["adapter"])
    for kind, part in model.parts().items():
        part.load_state_dict(groups[kind])
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state, scaler


def _metadata(metadata: dict[str, str], key: str, where: str, remedy: str) -> dict:
    """A JSON object in the file's metadata."""
    if key not in metadata:
        raise D2STError(f"{where} has no {key}; {remedy}.")
    return of_format(parse(metadata[key], f"{where}: its {key}", remedy), f"{where}: its {key}", remedy, format=None)


def _slots(
    found: dict[str, torch.Tensor], model: nn.Module, optimizer: torch.optim.Optimizer, where: str, remedy: str
) -> dict[int, dict[str, torch.Tensor]]:
    """What Adam keeps of each parameter, under its number."""
    names, slots = {name: index for index, name in enumerate(_names(model, optimizer))}, {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, tensor in found.items():
        slot, _, name = key.partition("/")
        if slot not in SLOTS or name not in names:
            raise D2STError(f"{where} has a parameter '{name or key}' and the model has not; {remedy}.")
        if tensor.shape != (() if slot == "step" else parameters[names[name]].shape):
            raise D2STError(f"{where} has another size of '{name}' than the model; {remedy}.")
        slots.setdefault(names[name], {})[slot] = tensor
    if any(len(own) < len(SLOTS) for own in slots.values()):
        raise D2STError(f"{where} is not whole: it lacks a part of the optimizer's; {remedy}.")
    return slots


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters in its own order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
