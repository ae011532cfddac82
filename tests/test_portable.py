"""What runs on Linux alone is asked for only where it is: the package is imported and answers without POSIX modules."""

import subprocess
import sys

import pytest
import torch

from d2st.utils import device

HIDDEN = """
import builtins, importlib, os, pkgutil, signal, sys
import huggingface_hub.utils, lightning_fabric, torch, torchvision  # they ask for what their own platform has

POSIX = {"fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog"}
imported = builtins.__import__

def without_posix(name, globals=None, *more, **named):
    if name in POSIX and (globals or {}).get("__name__", "").startswith("d2st"):
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name}, which Windows lacks")
    return imported(name, globals, *more, **named)

builtins.__import__ = without_posix
for name in ("pread", "O_NONBLOCK", "getuid", "sched_getaffinity"):
    delattr(os, name)
for name in ("SIGCHLD", "SIGHUP", "SIGUSR1"):
    delattr(signal, name)
"""
IMPORTS = """
import d2st
without = []
for found in pkgutil.walk_packages(d2st.__path__, "d2st."):
    if found.name == "d2st.__main__":
        continue
    try:
        importlib.import_module(found.name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("gradio", "onnx", "onnxruntime", "onnxscript", "open_clip"):
            raise
        without.append(found.name)
print("imported, without", without)
"""
PARSER = """
from d2st.commands.cli import main
for argv in (["predict", "--support", "a", "--query", "b", "--print-config"], ["predict", "--help"]):
    try:
        main(argv)
    except SystemExit as end:
        assert not end.code, argv
"""


def _without_posix(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", HIDDEN + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_without_posix_modules():
    assert "imported" in _without_posix(IMPORTS)


def test_the_command_line_is_parsed_without_posix_modules():
    shown = _without_posix(PARSER)
    assert "support: a" in shown and "--support" in shown


@pytest.mark.parametrize(("cuda", "mps", "picked"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_automatic_device_is_cuda_then_mps_then_the_cpu(monkeypatch, cuda, mps, picked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert device.pick_device("auto").type == picked
