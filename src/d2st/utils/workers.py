"""Do the same small job for every clip, in several processes."""

import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import D2STError
from .signals import follow_parent

# What handing over a batch raises where the worker dies in the middle of it.
_HUNG_UP = (ConnectionResetError, ConnectionRefusedError, EOFError)
_SIGNAL = 0.5  # seconds until the death of a worker is surely told
_THEN = "Run again with fewer workers: what is finished is kept"


def run_jobs(work: Callable, jobs: Sequence, workers: int | None, then: str = _THEN) -> Iterator:
    """Yield the results of ``work(job)`` in the order of the jobs.

    A data loader carries them: its workers end when this process is killed, and it notices when one of them is. An
    error of a job is raised here as it was there, without the worker's traceback in its words.

    Args:
        work: picklable.
        jobs: picklable.
        workers: processes; None for one a CPU core, 0 for none besides this one.
        then: what the user does after a worker was killed.

    Raises:
        D2STError: a worker process dies. That may also be noticed while a result is being used, so put the loop
            under :func:`lost_workers`.
    """
    count = min(os.cpu_count() or 1 if workers is None else workers, len(jobs))
    if not count:
        yield from map(work, jobs)
        return
    loader = DataLoader(
        _Jobs(work, jobs),
        batch_size=None,
        num_workers=count,
        collate_fn=_same,
        worker_init_fn=follow_parent,
        generator=torch.Generator(),  # of its own: what is drawn after this is the same whatever the workers
    )
    for result in from_workers(loader, then):
        if isinstance(result, _Failed):
            raise result.error
        yield result


@contextmanager
def lost_workers(then: str = "") -> Iterator[None]:
    """Turn the error of a data loader whose worker was killed into a sentence, wherever it is noticed.

    Args:
        then: what the user does next; empty for what suits :func:`run_jobs`.

    Raises:
        D2STError: A worker process died.
    """
    try:
        yield
    except (RuntimeError, *_HUNG_UP) as error:
        if not killed(error):
            raise
        raise D2STError(lost(error, then or _THEN)) from error


def from_workers(loader: Iterable, then: str = "Run again with fewer workers") -> Iterator:
    """Yield what a data loader gives.

    Args:
        loader: or an iterator over one.
        then: what the user does after a worker was killed.

    Raises:
        D2STError: a worker process dies.
    """
    with lost_workers(then):
        yield from loader


def killed(error: BaseException) -> bool:
    """Say whether an error of a data loader means that one of its workers was killed.

    A broken connection is noticed before the worker's death is: PyTorch raises that by a signal, wherever the main
    thread is by then. So it is awaited here, where it does no harm.
    """
    if isinstance(error, _HUNG_UP):
        with suppress(RuntimeError):
            time.sleep(_SIGNAL)
        return True
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back the signal of a worker's death, by which PyTorch raises wherever the main thread is, until the end."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    before = signal.signal(signal.SIGCHLD, lambda *of: came.append(of))
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
    if came and callable(before):
        before(*came[0])


def lost(error: BaseException, then: str) -> str:
    """Return the sentence for a worker that was killed."""
    return f"A worker process died ({str(error).strip()}); the system may be out of memory. {then} (--workers)."


@dataclass(frozen=True)
class _Failed:
    error: Exception


class _Jobs(Dataset):
    def __init__(self, work: Callable, jobs: Sequence) -> None:
        self.work, self.jobs = work, jobs

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, index: int):
        try:
            return self.work(self.jobs[index])
        except Exception as error:
            error.add_note(f"In the worker: {traceback.format_exc()}")  # printed with a traceback alone
            return _Failed(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return an error that can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _same(result):
    return result
