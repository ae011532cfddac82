"""The length of a run in episodes or batches, and what is checked of its steps."""

from pathlib import Path

import pytest
import torch
from torch import nn

from d2st.errors import D2STError
from d2st.training.checkpoint import TrainState
from d2st.training.checks import StepChecks
from d2st.training.duration import Duration
from d2st.training.options import ClassificationTrainingOptions, EpisodicTrainingOptions
from d2st.training.run_folder import RunFolder


def test_episodes_are_validated_ten_times_unless_told_otherwise() -> None:
    duration = Duration.of_episodes(EpisodicTrainingOptions(episodes=25, episodes_per_step=4))
    assert (duration.unit, duration.total, duration.per_step, duration.validate_every) == ("episode", 25, 4, 2)
    assert Duration.of_episodes(EpisodicTrainingOptions(validate_every=0)).validate_every == 0
    assert duration.place(8) == {"episode": 8} and duration.say(8) == "episode 8"


def test_epochs_become_whole_steps_of_batches() -> None:
    options = ClassificationTrainingOptions(epochs=2, clips_per_step=8, batch_size=2, validate_every=0.5)
    duration = Duration.of_epochs(options, clips=30, warmup_epochs=1, processes=2)
    assert (duration.total, duration.per_step, duration.validate_every) == (8 * 4, 4, 2 * 4)
    assert duration.place(15) == {"batch": 15, "epoch": 1.0}
    with pytest.raises(D2STError, match="is 4 batches, which 3 processes cannot share equally"):
        Duration.of_epochs(options, clips=30, warmup_epochs=1, processes=3)


def test_the_last_step_may_be_smaller_and_is_validated() -> None:
    duration = Duration("episode", "episodes", total=10, per_step=4, validate_every=6)
    assert [duration.steps(done) for done in (0, 4, 8, 10)] == [0, 1, 2, 3]
    assert [done for done in range(12) if duration.ends_step(done)] == [0, 4, 8, 10]
    assert [duration.due(*step) for step in ((0, 4), (4, 8), (8, 10))] == [False, True, True]
    duration.check(processes=2)
    with pytest.raises(D2STError, match="10 episodes in steps of 4 cannot be shared by 4 processes"):
        duration.check(processes=4)


def test_a_good_step_asks_nothing_of_the_disk(tmp_path, monkeypatch) -> None:
    """The sentence about weights, which says whether a state was saved, is made for bad weights alone."""
    asked, exists = [], Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: asked.append(path) or exists(path))
    model = nn.Linear(2, 2)
    checks = StepChecks(model, Duration("episode", "episodes", 8, 4, 0), RunFolder(tmp_path), fp16=False)
    checks.check_gradients(TrainState(), torch.ones(4), torch.tensor(1.0))
    checks.check_weights(4)
    assert not asked
    model.weight.data[0] = torch.nan
    with pytest.raises(D2STError, match=r"The weights after episode 8 hold .* in 'weight'.* No state was saved yet"):
        checks.check_weights(8)
