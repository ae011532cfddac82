"""The same small job for every clip, in several processes."""

import os
from collections.abc import Callable, Iterator, Sequence

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
    try:
        yield from DataLoader(_Jobs(work, jobs), batch_size=None, num_workers=count, collate_fn=_same)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise D2STError(
            f"A worker process died ({error}); the system may be out of memory. Run again with fewer workers: what is "
            "finished is kept."
        ) from error


class _Jobs(Dataset):
    def __init__(self, work: Callable, jobs: Sequence) -> None:
        self.work, self.jobs = work, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int):
        return self.work(self.jobs[index])


def _same(result):
    return result
