"""Head files, beside the adapter's: ``head_config.json``, and ``head_model.safetensors`` of a head with parameters."""

import json
from dataclasses import asdict
from pathlib import Path

from .. import __version__
from ..clip_reading import ClipReading
from ..errors import D2STError
from ..files import write_json, write_safetensors
from .base import Head
from .spec import HeadSpec, TextConfig

CONFIG, WEIGHTS = "head_config.json", "head_model.safetensors"
FORMAT = 1


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
    """Rebuild a saved head, in eval mode.

    Args:
        source: folder of an adapter that was trained with it, or a Hub repository ("hub:user/name", see
            :mod:`d2st.hub`).
        revision: branch, tag or commit of a Hub repository.
        **options: instead of the saved ones, where they leave the weights as they are. Another number of ``classes``
            draws anew what names the training classes.

    Raises:
        D2STError: no head there, one that cannot be read, or options that its weights do not fit.
    """
    from ..pretrained import find
    from . import build

    folder = find(source, CONFIG, WEIGHTS, revision=revision)
    spec = saved_spec(folder)
    if spec is None:
        raise D2STError(f"'{source}' holds no head: {CONFIG} is missing. Build one by its name instead.")
    head = build(spec.name, **{**spec.options, **options})
    reading = json.loads((folder / CONFIG).read_text()).get("reading")
    head.reading = reading and ClipReading.from_dict(reading, f"reading in {folder / CONFIG}")
    if head.needs_text:
        head.text = TextConfig(**json.loads((folder / CONFIG).read_text()).get("text", {}))
    if not head.state_dict():
        return head.eval()
    try:
        from safetensors.torch import load_file

        state = load_file(folder / WEIGHTS)
    except Exception as error:  # missing, cut short, not safetensors: one sentence for all
        raise D2STError(f"{folder / WEIGHTS} cannot be read ({error}). Copy the trained folder again.") from error
    if "classes" in options:
        was, now, fresh = spec.options["classes"], options["classes"], head.state_dict()
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
    """The head that a folder holds, with all its options; None if there is none.

    Raises:
        D2STError: the file cannot be read.
    """
    from ..pretrained import tuples

    try:
        saved = json.loads((folder / CONFIG).read_text())
        if saved["format"] != FORMAT:
            raise D2STError(
                f"{folder / CONFIG} has format {saved['format']}, and this d2st {__version__} reads format {FORMAT}. "
                f"Use the d2st that wrote it ({saved.get('d2st_version', 'not said')})."
            )
        options = {key: tuples(value) for key, value in saved["head"].items()}
        return HeadSpec(options.pop("name"), options)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise D2STError(f"{folder / CONFIG} is not the JSON that d2st.heads.save writes: {error}") from error
