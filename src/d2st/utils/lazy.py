"""Public names of a package that are imported when first used."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence


def lazy_names(
    package: str, names: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """Make the ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        names: module in the package -> names that it gives, "build as sampler" under another name.
        modules: modules that are public themselves.
    """
    homes = {}
    for module, given in names.items():
        for entry in given:
            attribute, _, name = entry.partition(" as ")
            homes[name or attribute] = module, attribute

    def __getattr__(name: str) -> object:
        if name in homes:
            module, attribute = homes[name]
            value = getattr(importlib.import_module(f"{package}.{module}"), attribute)
        elif name in modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes, *modules})

    return __getattr__, __dir__
