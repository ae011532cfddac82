"""Save and load heads beside the adapter: ``head_config.json``, and ``head_model.safetensors`` if it has parameters."""

from dataclasses import asdict
from pathlib import Path

import torch

from ..data.clip_reading import ClipReading
from ..data.options import TextConfig
from ..errors import D2STError
from ..utils.config import build as build_config
from ..utils.files import write_json, write_safetensors
from ..utils.hub import find
from ..utils.sentences import listed
from ..utils.tensor_file import read_shapes, read_tensors
from ..utils.versioned_json import brief, read_versioned
from ..version import __version__
from .base import Head, HeadSpec

CONFIG, WEIGHTS = "head_config.json", "head_model.safetensors"
FORMAT = 1
COPY = "copy the trained folder again"


def save(head: Head, folder: str | Path) -> Path:
    """Write a head that ``d2st.heads.build`` built to a folder, weights first, each file in one step."""
    if head.spec is None:
        raise D2STError(f"A {type(head).__name__} made without d2st.heads.build has no name to be saved under.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = head.state_dict()
    if state:
        write_safetensors(folder / WEIGHTS, state)
    else:
        (folder / WEIGHTS).unlink(missing_ok=True)  # of another head that was here
    settings = {"format": FORMAT, "d2st_version": __version__, "head": {"name": head.spec.name, **head.spec.options}}
    if head.text:
        settings["text"] = asdict(head.text) | {"weights": None}  # a path of this machine
    if head.reading:
        settings["reading"] = head.reading.to_dict()
    write_json(folder / CONFIG, settings)
    return folder


def load(source: str | Path, *, revision: str | None = None, **options: object) -> Head:
    """Load a saved head, in eval mode.

    Args:
        source: folder of an adapter that was trained with it, or a Hub repository ("hub:user/name", see
            :mod:`d2st.utils.hub`).
        revision: branch, tag or commit of a Hub repository.
        **options: instead of the saved ones, where they leave the weights as they are. Another number of ``classes``
            draws anew what names the training classes.

    Raises:
        D2STError: no head there, one that cannot be read, or options that its weights do not fit.
    """
    from . import build

    folder = find(source, CONFIG, WEIGHTS, revision=revision)
    spec = saved_spec(folder)
    if spec is None:
        raise D2STError(f"'{source}' holds no head: {CONFIG} is missing. Build one by its name instead.")
    try:
        _refuse_sizes(folder, spec)
        head = build(spec.name, **{**spec.options, **options})
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:  # options that do not go together
        if isinstance(error, D2STError):
            raise
        raise D2STError(f"The head in '{folder}' cannot be built from its options: {error}; {COPY}.") from error
    saved = _read(folder)
    if saved.get("reading") is not None:
        head.reading = ClipReading.from_dict(saved["reading"], f"reading in {folder / CONFIG}")
    if head.needs_text:
        head.text = build_config(TextConfig, saved.get("text", {}), f"text in {folder / CONFIG}")
    if not head.state_dict():
        return head.eval()
    state = read_tensors(folder / WEIGHTS, what="head's weights", remedy=COPY)[0]
    if "classes" in options and "classes" in spec.options:
        was = spec.options["classes"]
        now = options["classes"]
        fresh = head.state_dict()
        for key, tensor in state.items():
            own = fresh.get(key, tensor)
            if was != now and tensor.shape[:1] == (was,) and own.shape == (now, *tensor.shape[1:]):
                state[key] = own
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise D2STError(
            f"The weights of the head '{spec.name}' in '{source}' do not fit its options "
            f"{head.spec.options}: {' '.join(str(error).split())} Leave out the options that it was not trained with."
        ) from error
    return head.eval()


def saved_spec(folder: Path) -> HeadSpec | None:
    """Read which head a folder holds, with all its options; None if there is none.

    Raises:
        D2STError: the file cannot be read.
    """
    if not (folder / CONFIG).exists():
        return None
    options = dict(_read(folder)["head"])
    where = f"{CONFIG} in {folder}"
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise D2STError(f"{where}: the head's name is {brief(name)} and not text; {COPY}.")
    try:
        return HeadSpec(name, {key: _tuples(value) for key, value in options.items()})
    except D2STError as error:
        raise D2STError(f"{where}: {error}") from error


def _read(folder: Path) -> dict:
    saved = read_versioned(folder / CONFIG, format=FORMAT, what="head's config", remedy=COPY, needs=["head"])
    if not isinstance(saved["head"], dict):
        raise D2STError(f"{CONFIG} in {folder}: head is {brief(saved['head'])} and not an object; {COPY}.")
    return saved


def _tuples(value: object) -> object:
    """Turn JSON's lists into the tuples that they were."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _refuse_sizes(folder: Path, spec: HeadSpec) -> None:
    """Refuse a config that describes other tensors than the file beside it has, before any memory is taken.

    Raises:
        D2STError: it does, or its options do not go together.
    """
    from . import build

    try:
        with torch.device("meta"):
            sketch = build(spec.name, **spec.options).state_dict()
    except (RuntimeError, NotImplementedError):  # a head from elsewhere that looks at its tensors
        return
    wanted = {name: tuple(tensor.shape) for name, tensor in sketch.items()}
    if not wanted:
        return
    found = read_shapes(folder / WEIGHTS, what="head's weights", remedy=COPY)
    if wanted != found:
        wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise D2STError(
            f"The weights of the head '{spec.name}' in '{folder}' do not fit its options {dict(spec.options)}: "
            f"{listed(wrong, 'tensors')} are others; {COPY}."
        )
