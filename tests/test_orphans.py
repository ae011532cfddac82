"""Loader workers whose parent process is killed; PyTorch alone would leave these behind forever."""

import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, os, signal, sys, time
from d2st.utils.signals import follow_parent

def late(parent, ready, lock):
    ready.release()
    while os.getppid() == parent:
        time.sleep(0.001)
    follow_parent(0)
    time.sleep(1000)

def stuck(parent, ready, lock):
    follow_parent(0)
    ready.release()
    lock.acquire()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    ready, lock = context.Semaphore(0), context.Lock()
    lock.acquire()
    for _ in range(2):
        context.Process(target=globals()[sys.argv[1]], args=(os.getpid(), ready, lock), daemon=True).start()
    ready.acquire()
    ready.acquire()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("worker", ["late", "stuck"])
def test_a_worker_ends_with_its_parent(worker, method, tmp_path) -> None:
    """One that starts while its parent dies, and one that waits for a lock that its parent took along."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, str(script), worker, method], stdout=subprocess.PIPE)
    assert process.communicate(timeout=100)[0] == b""  # the workers hold the pipe: it ends when the last of them has
