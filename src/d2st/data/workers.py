"""The same small job for every clip, in several processes."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from d2st.errors import D2STError


def run_jobs(work: Callable, jobs: Sequence, workers: int | None) -> Iterator:
    """Results of ``work(job)`` in the order of the jobs.

    A data loader carries them: its workers notice when this process is killed, and it notices when one of them is.

    Args:
        work: Picklable.
        jobs: Picklable.
        workers: Processes; None for one a CPU core, 0 for none besides this one.

    Raises:
        D2STError: If a worker process dies.
    """
    count = min(os.cpu_count() or 1 if workers is None else workers, len(jobs))
    loader = DataLoader(_Jobs(work, jobs), batch_size=None, num_workers=count, collate_fn=_same)
    yield from from_workers(loader, "Run again with fewer workers: what is finished is kept")


def from_workers(loader: Iterable, then: str = "Run again with fewer workers") -> Iterator:
    """What a data loader gives.

    Args:
        loader: or an iterator over one.
        then: what the user does after a worker was killed.

    Raises:
        D2STError: If a worker process dies.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if not killed(error):
            raise
        raise D2STError(lost(error, then)) from error


def killed(error: BaseException) -> bool:
    """Whether a data loader says with an error that one of its workers was killed."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def lost(error: BaseException, then: str) -> str:
    """The sentence for a worker that was killed."""
    return f"A worker process died ({str(error).strip()}); the system may be out of memory. {then} (--workers)."


class _Jobs(Dataset):
    def __init__(self, work: Callable, jobs: Sequence) -> None:
        self.work, self.jobs = work, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int):
        return self.work(self.jobs[index])


def _same(result):
    return result
