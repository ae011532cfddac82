"""Stop a run that cannot come to a good end, in a sentence that says which of its states is good."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import D2STError
from ..utils.distributed import gather
from ..utils.files import write_json
from ..utils.finite import all_true, check_weights
from .checkpoint import TrainState
from .duration import Duration
from .run_folder import RunFolder

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SKIPPED = 20  # steps in a row that fp16 may skip: the loss scale begins at 2^16 and is halved each time


class StepChecks:
    """Refuse losses, gradients and weights that are not finite, and fp16 that takes no steps."""

    def __init__(self, loss: nn.Module, duration: Duration, folder: RunFolder, fp16: bool) -> None:
        self.trained = [(name, parameter) for name, parameter in loss.named_parameters() if parameter.requires_grad]
        self.duration = duration
        self.folder = folder
        self.fp16 = fp16  # its loss scaler skips steps whose gradients overflow
        self.skipped = 0  # steps since the last one taken

    def check_gradients(self, state: TrainState, losses: Tensor, norm: Tensor) -> None:
        """Refuse the losses (A,) of a step's units, or the norm of its gradient, before the step is taken."""
        wrong = (~losses.isfinite()).nonzero().flatten().tolist()
        if wrong:
            what = f"The loss of {self.duration.say(state.done + wrong[0])} is {losses[wrong[0]].item()}"
        elif not self.fp16 and not norm.isfinite():
            last = state.done + len(losses) - 1
            what = f"The gradient of {self.duration.units} {state.done} to {last} has norm {norm.item()}"
        else:
            return
        raise D2STError(
            f"{what}; the run stopped before that step. The last good state, at {self.duration.say(state.done)}, is "
            f"{self.folder.state}. Try a lower lr, clip_norm or fp32, in another folder."
        )

    def check_weights(self, last: int) -> None:
        """Refuse what a step, which ends after ``last`` units, has made of the weights."""
        if all_true([parameter.detach().isfinite().all() for _, parameter in self.trained]):
            return
        kept = f"An earlier state is in {self.folder.state}" if self.folder.state.exists() else "No state was saved yet"
        remedy = f"the run stopped, and nothing of that step is kept. {kept}. In another folder, try a lower lr or fp32"
        check_weights(self.trained, f"The weights after {self.duration.say(last)}", remedy)

    def count_skipped(self, state: TrainState, norm: float) -> dict[str, float]:
        """Count a step of fp16 by the norm of its gradient; gives what the metrics say of it."""
        if not self.fp16:
            return {}
        taken = math.isfinite(norm)
        self.skipped = 0 if taken else self.skipped + 1
        state.skipped += not taken
        return {"skipped": float(not taken)}

    def check_skipped(self, state: TrainState) -> None:
        """Refuse to go on where fp16 takes no more steps, or has taken none by the end."""
        steps = self.duration.steps(state.done)
        none_taken = state.done == self.duration.total and state.skipped == steps
        if self.skipped < SKIPPED and not none_taken:
            return
        raise D2STError(
            f"fp16 skipped {state.skipped} of {steps} steps up to {self.duration.say(state.done)}, the last "
            f"{max(self.skipped, 1)} in a row: their gradients are not finite, however small the loss is scaled. Try "
            f"bf16 or fp32, or a lower lr, in another folder."
        )


class UnreadableClips:
    """Collect the clips that could not be read in the state and in the folder of a run, and stop at too many.

    Args:
        fabric: launched.
        folder: of the run.
        clips: number of training clips.
        max_bad: share of them that may be unreadable.
    """

    def __init__(self, fabric: "Fabric", folder: RunFolder, clips: int, max_bad: float) -> None:
        self.fabric = fabric
        self.folder = folder
        self.clips = clips
        self.max_bad = max_bad
        self.found: dict[str, str] = {}  # training clips, since this start: id -> reason
        self.counts = torch.zeros(fabric.world_size)  # of these in each process, when last exchanged

    def exchange(self, state: TrainState, counts: Tensor, at: str) -> None:
        """Tell all processes what each has found, where ``counts`` (W,) say that there is news.

        Raises:
            D2STError: too many clips cannot be read.
        """
        counts = counts.cpu()
        if torch.equal(counts, self.counts):
            return
        for found in gather(self.fabric, self.found):
            self.found |= found
        self.counts = torch.full_like(counts, len(self.found))
        self.note(state, self.found)
        if len(self.found) > self.max_bad * self.clips:
            raise D2STError(
                f"{len(self.found)} clips could not be read, more than max_bad = {self.max_bad:.0%} of {self.clips}; "
                f"they are listed in {self.folder.bad}. The state at {at} is kept. Repair the data, or start again "
                f"with a larger max_bad."
            )

    def note(self, state: TrainState, found: dict[str, str]) -> None:
        """Add clips, of training or validation, to the state and to the folder."""
        if found.items() <= state.bad.items():
            return
        state.bad |= found
        if self.fabric.is_global_zero:
            write_json(self.folder.bad, state.unreadable)
