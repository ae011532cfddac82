"""Digest the code that makes features: this package's, a model's own classes', and versions of libraries."""

import functools
import hashlib
import importlib.metadata
import inspect
import platform
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import nn

from ..utils.provenance import PACKAGES

# Code of these is what their versions say. Other packages of the environment may be somebody's own, and be edited.
_BY_VERSION = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "lightning_fabric",
    "huggingface_hub",
} | sys.stdlib_module_names - {"__main__"}
_INSTALLED = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib"))
_SIMPLE = (bool, int, float, str, bytes, type(None))


class NoSource(Exception):
    """A class without a source file, as one that was typed in a notebook: what it calls cannot be followed."""


def code_digest(modules: Iterable[nn.Module], *others: object) -> str:
    """Digest (SHA-256) all code that may change what a model computes.

    That is the text of this package and of the files that the model's own classes are in, with those that they import
    from beside them; and, because files may have been edited since they were imported, the instructions that the
    classes and hooks have now.

    Args:
        modules: the model.
        others: objects whose classes have a part in it, such as an adapter's config.

    Raises:
        NoSource: nothing can say that a class is still the same; the message is its name.
    """
    result = hashlib.sha256()
    for text in (_AT_IMPORT, _sources(), platform.python_version(), *_versions()):
        result.update(text.encode())
    things = [*others, *(thing for module in modules for thing in _things(module))]
    own = {cls for thing in things for cls in _own(type(thing))}
    classes = sorted(own, key=_path)
    for cls in classes:
        result.update(_path(cls).encode())
        _add(result, {name: value for name, value in vars(cls).items() if name not in _ABOUT})
    for content in sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(classes)):
        result.update(content.encode())
    for thing in things:
        result.update(_path(type(thing)).encode())  # a library's layer is known by its class
        own = getattr(thing, "__dict__", {})  # not of a class with slots
        _add(result, {name: value for name, value in own.items() if name[0] != "_" and name != "training"})
    return result.hexdigest()


_ABOUT = {"__module__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"}


class _Hooked:
    """A function that was hooked into a module, as an object that has it."""

    def __init__(self, function: types.FunctionType | types.MethodType) -> None:
        self.function = function


def _things(module: nn.Module) -> Iterator[object]:
    """Go through a module's modules and what is hooked into them."""
    for part in module.modules():
        yield part
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values()):
            hook = hook.func if isinstance(hook, functools.partial) else hook
            if isinstance(hook, types.FunctionType | types.MethodType):
                yield _Hooked(hook)
            elif hasattr(hook, "__dict__"):
                yield hook


def _own(cls: type) -> Iterator[type]:
    """Go through a class and its bases, without those of libraries."""
    return (base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _BY_VERSION)


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _add(result: "hashlib._Hash", content: dict[str, object]) -> None:
    """Add the functions, plain values and tuples of these of a class or an object, by name."""
    for name, value in sorted(content.items()):
        value = value.fget if isinstance(value, property) else value
        value = inspect.unwrap(value) if callable(value) else value
        value = getattr(value, "__func__", value)  # of methods
        if isinstance(value, types.FunctionType):
            result.update(name.encode())
            _add_code(result, value.__code__)
        elif isinstance(value, _SIMPLE) or (isinstance(value, tuple) and all(isinstance(x, _SIMPLE) for x in value)):
            result.update(f"{name}={value!r}".encode())


def _add_code(result: "hashlib._Hash", code: types.CodeType) -> None:
    """Add instructions, names and constants, without their place in a file."""
    result.update(code.co_code + repr((code.co_names, code.co_varnames, code.co_freevars)).encode())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _add_code(result, constant)
        else:
            constant = sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant
            result.update(repr(constant).encode())


def _files(classes: Iterable[type]) -> set[Path]:
    """Find the files that classes are in, and those of modules that they use there and that are not installed."""
    files, seen = set(), set()
    left = []
    for cls in classes:
        if _file(cls.__module__) is None:
            raise NoSource(cls.__name__)
        left.append(cls.__module__)
    while left:
        name = left.pop()
        if name in seen or name.partition(".")[0] == "d2st":
            continue
        seen.add(name)
        files.add(_file(name))
        for value in list(vars(sys.modules[name]).values()):
            used = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            file = _file(used) if isinstance(used, str) else None
            if file and (used.partition(".")[0] == name.partition(".")[0] or not str(file).startswith(_INSTALLED)):
                left.append(used)
    return files


def _file(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    return Path(file) if file and Path(file).is_file() else None


def _sources() -> str:
    """Digest this package's sources as they are now."""
    folder = Path(__file__).parent.parent
    result = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        result.update(str(file.relative_to(folder)).encode())
        result.update(file.read_bytes())
    return result.hexdigest()


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        try:
            yield f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            continue


_AT_IMPORT = _sources()  # a process in which it differs from what is there now runs code that no other will
