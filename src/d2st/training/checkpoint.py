"""The checkpoint of a training run: weights, optimizer and state in one file, which is replaced in one step."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.config import build, check_fields, option
from ..utils.files import write_safetensors
from ..utils.tensor_file import read_tensors
from ..utils.versioned_json import of_format, parse
from ..utils.workers import undisturbed

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision

BatchNorm = torch.nn.modules.batchnorm._BatchNorm  # the base of all of them has no public name
WHAT, REMEDY = "state of the run", "start over with overwrite, or give another out"
SLOTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam and AdamW


@dataclass
class TrainState:
    """Keep how far a run is.

    What is drawn, frames and augmentation follow from the seed and the index of the episode or batch, so there is no
    state of a random generator or a loader to keep; and a state is only ever saved between optimizer steps.

    Attributes:
        done: episodes, or batches of clips, that the weights have seen.
        best_accuracy: on the validation part, 0..1; None before the first validation.
        best_at: after how many that was.
        seconds: spent on training, over all starts of the run.
        bad: clips that could not be read, of training and validation, at any start of the run: id -> reason.
        clips: digest of the training clips.
        owed: whether the validation that is due after ``done`` is still to be made.
        skipped: steps that the fp16 loss scaler did not take, because their gradients overflowed.
        best_way: classes that were told apart at ``best_at``; 0 is not known, as in states of before.
    """

    done: int = option(0, least=0)
    best_accuracy: float | None = option(None, least=0, most=1)
    best_at: int = option(0, least=0)
    seconds: float = option(0.0, least=0)
    bad: dict[str, str] = field(default_factory=dict)
    clips: str = ""
    owed: bool = False
    skipped: int = option(0, least=0)
    best_way: int = option(0, least=0)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def unreadable(self) -> list[dict[str, str]]:
        """List ``bad`` as JSON has it."""
        return [{"id": id, "reason": reason} for id, reason in sorted(self.bad.items())]


class Checkpoint:
    """Save a run between its steps, and never in the middle of one.

    Args:
        path: of the file.
        model: bare, see :func:`save`.
        optimizer: of its trained parameters.
        scaler: Fabric's precision, which has the state of the fp16 loss scaler.
        minutes: longest time of training that a killed process loses.
        write: this process, of several, is the one that writes.
    """

    def __init__(
        self,
        path: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: "Precision",
        minutes: float,
        write: bool,
    ) -> None:
        self.path = path
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler
        self.interval = 60 * minutes
        self.write = write
        self.whole = True  # no step is half done
        self.saved = self.counted = time.monotonic()

    def load(self) -> TrainState:
        """Put the saved run back into model, optimizer and loss scaler."""
        state, scaler = load(self.path, self.model, self.optimizer)
        try:
            self.scaler.load_state_dict(scaler)
        except (KeyError, RuntimeError) as error:
            raise D2STError(f"The {WHAT}, {self.path}, lacks the loss scaler ({error}); {REMEDY}.") from error
        return state

    def save(self, state: TrainState, now: bool = False) -> None:
        """Count the time, and write the file if told so or if the last time is long enough ago."""
        clock = time.monotonic()
        state.seconds += clock - self.counted
        self.counted = clock
        if self.write and (now or clock - self.saved >= self.interval):
            save(self.path, state, self.model, self.optimizer, self.scaler.state_dict())
            self.saved = time.monotonic()

    @contextmanager
    def step(self) -> Iterator[None]:
        """Hold for as long as weights and state change: what is saved is from before or after it."""
        with undisturbed():  # a worker's death is told after it
            self.whole = False
            yield
            self.remember_statistics()
            self.whole = True

    def rescue(self, state: TrainState) -> bool:
        """Save the last whole step after an error; gives whether there is one."""
        if not self.whole:
            return False
        self.optimizer.zero_grad()
        for buffer, value in self.statistics:
            buffer.copy_(value)
        self.save(state, now=True)
        return True

    def remember_statistics(self) -> None:
        """Keep what BatchNorms in training have counted: a step that is not finished moves it, too."""
        norms = [module for module in self.model.modules() if isinstance(module, BatchNorm) and module.training]
        self.statistics = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]

    def share_statistics(self, fabric: "Fabric") -> None:
        """Give every process what the first one's BatchNorms have counted: what is validated is what is saved."""
        if fabric.world_size > 1:
            for buffer, _ in self.statistics:
                torch.distributed.broadcast(buffer, 0)


def tensors(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Collect what is trained of a bare module, by the name of its part: the adapter, and what ``parts()`` names."""
    parts = {kind: part.state_dict() for kind, part in model.parts().items()}
    return {"adapter": model.encoder.adapter_state_dict(), **parts}


def save(path: Path, state: TrainState, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: dict) -> None:
    """Write the trained tensors, the optimizer's and the state to a safetensors file.

    Args:
        path: of the file.
        state: goes into the file's metadata as JSON.
        model: bare, with an ``encoder``, and ``parts()`` that names what else has a state.
        optimizer: its state tensors are stored under the names of the parameters they belong to.
        scaler: state of the fp16 loss scaler, numbers only; empty without one.
    """
    kept = {}
    for kind, own in tensors(model).items():
        kept |= {f"{kind}/{name}": tensor for name, tensor in own.items()}
    names = list(_parameters(model, optimizer))
    for index, slots in optimizer.state_dict()["state"].items():
        kept |= {f"optimizer/{slot}/{names[index]}": torch.as_tensor(value) for slot, value in slots.items()}
    write_safetensors(path, kept, {"state": json.dumps(asdict(state)), "scaler": json.dumps(scaler)})


def load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[TrainState, dict]:
    """Put a saved run back into its model and optimizer.

    Returns:
        The state, and that of the fp16 loss scaler.

    Raises:
        D2STError: the file cannot be read or belongs to another model.
    """
    where = f"The {WHAT} '{path}'"
    found, metadata = read_tensors(path, what=WHAT, remedy=REMEDY)
    state = build(TrainState, _metadata(metadata, "state", where), where)
    scaler = _metadata(metadata, "scaler", where)
    if not all(isinstance(number, int | float) for number in scaler.values()):
        raise D2STError(f"{where}: its scaler holds more than numbers; {REMEDY}.")
    saved: dict[str, dict[str, Tensor]] = {kind: {} for kind in ("adapter", *model.parts(), "optimizer")}
    for key, tensor in found.items():
        kind, _, name = key.partition("/")
        if kind not in saved:
            raise D2STError(f"{where} has {key[:80]!r}, which is no part of this model; {REMEDY}.")
        saved[kind][name] = tensor
    for kind, own in tensors(model).items():
        if _shapes(own) != _shapes(saved[kind]):
            raise D2STError(f"{where} is of another model: the tensors of its {kind} are not this one's; {REMEDY}.")
    slots = _slots(saved["optimizer"], _parameters(model, optimizer), where)
    model.encoder.load_adapter_state_dict(saved["adapter"])
    for kind, part in model.parts().items():
        part.load_state_dict(saved[kind])
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return state, scaler


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _metadata(metadata: dict[str, str], key: str, where: str) -> dict:
    """Read a JSON object in the file's metadata."""
    if key not in metadata:
        raise D2STError(f"{where} has no {key}; {REMEDY}.")
    own = f"{where}: its {key}"
    return of_format(parse(metadata[key], own, REMEDY), own, REMEDY, format=None)


def _slots(found: dict[str, Tensor], parameters: dict[str, nn.Parameter], where: str) -> dict[int, dict[str, Tensor]]:
    """Sort what Adam keeps of each parameter under its number."""
    numbers = {name: number for number, name in enumerate(parameters)}
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in found.items():
        slot, _, name = key.partition("/")
        if slot not in SLOTS or name not in parameters:
            raise D2STError(f"{where} has a parameter '{name or key}' and the model has not; {REMEDY}.")
        expected = () if slot == "step" else parameters[name].shape
        if tensor.shape != expected:
            raise D2STError(f"{where} has another size of '{name}' than the model; {REMEDY}.")
        slots.setdefault(numbers[name], {})[slot] = tensor
    if any(len(own) < len(SLOTS) for own in slots.values()):
        raise D2STError(f"{where} is not whole: it lacks a part of the optimizer's; {REMEDY}.")
    return slots


def _parameters(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Name the optimizer's parameters, in its own order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: parameter for group in optimizer.param_groups for parameter in group["params"]}
