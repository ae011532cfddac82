"""``d2st export``: an adapted encoder as one file that runs without d2st, checked against PyTorch before it is kept."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from .. import heads
from ..classifiers.create import refuse_ignored
from ..classifiers.few_shot import FewShotClassifier
from ..classifiers.video import is_classifier
from ..data.clip_reading import choose_reading, with_reading
from ..encoder import VideoEncoder
from ..export import describe, export_encoder, import_onnx
from ..factory.encoder import create_encoder
from ..heads import DEFAULT, HeadSpec
from ..heads.head_file import saved_spec
from ..utils.console import say, tell
from ..utils.files import write_together
from ..utils.hub import find
from ..utils.provenance import plain, write_result
from .tool_options import ExportConfig

SUPPORT = "support.npz"
FORMATS = ("onnx", "pt2")


def export(config: ExportConfig) -> dict:
    """Write the file, once it computes on random clips what PyTorch computes.

    Returns:
        What the JSON beside the file holds: ``file``, its name; ``encoder``, the description that is also in the file;
        ``check``, how far it is from PyTorch (:func:`d2st.export.export_encoder`).

    Raises:
        D2STError: an option cannot be used, or what :func:`d2st.export.export_encoder` refuses. What an earlier export
            left is kept then, and else removed with its encoder.
    """
    if config.format == "onnx":
        import_onnx()  # before minutes of work
    classifier = _classifier(config)
    if classifier:
        encoder, head = classifier.encoder, classifier.head.spec
        reading, classes = classifier.reading, classifier.classes
    else:
        encoder, _ = create_encoder(config)
        head, reading, classes = _head(config), choose_reading(config, encoder), ()
    config = with_reading(config, reading)
    if encoder.mergeable:
        encoder.merge()
    about = describe(encoder, reading) | {"classes": list(classes), "head": plain(head)}
    out, name = Path(config.out), f"encoder.{config.format}"
    out.mkdir(parents=True, exist_ok=True)
    with write_together(out) as folder:
        result = {"file": name, **export_encoder(encoder, folder / name, about, config.seed)}
        if classes:
            _write_support(classifier, folder / SUPPORT)
        written = {file.name for file in folder.iterdir()}
    _remove_others(out, written)
    write_result(out / f"{name}.json", config, result)
    _tell(out / name, encoder, result)
    if config.adapter_path and is_classifier(config.adapter_path):
        tell(
            f"The classifier of {config.adapter_path} is not in the file, which is the encoder alone; its features are "
            "for a head such as bi-mhm, or for a layer of yours."
        )
    return result


def _classifier(config: ExportConfig) -> FewShotClassifier | None:
    if config.classifier is None:
        return None
    refuse_ignored(config, config.classifier)
    return FewShotClassifier.from_pretrained(config.classifier, weights=config.weights)


def _head(config: ExportConfig) -> HeadSpec:
    """Find the head that the features are meant for."""
    saved = config.adapter_path and saved_spec(find(config.adapter_path, "head_config.json"))
    return saved or heads.build(DEFAULT).spec


def _write_support(classifier: FewShotClassifier, file: Path) -> None:
    """Write (S, T', D) features of the examples, (S,) the number of the class of each, and the classes' names."""
    clips = [clips.frames.numpy() for clips in classifier.support.values()]
    labels = np.repeat(np.arange(len(clips)), [len(own) for own in clips])
    np.savez(file, features=np.concatenate(clips), labels=labels, classes=np.array(classifier.classes))


def _remove_others(out: Path, written: Collection[str]) -> None:
    """Remove what an earlier export left that this one did not write: encoders and examples go together."""
    encoders = [f"encoder.{format}" for format in FORMATS]
    for name in (SUPPORT, *(f"{encoder}{more}" for encoder in encoders for more in ("", ".data", ".json"))):
        if name not in written and (out / name).exists():
            (out / name).unlink()
            if name in encoders:
                tell(f"{out / name} of an earlier export was removed; give another --out to keep both.")


def _tell(file: Path, encoder: VideoEncoder, result: dict) -> None:
    about, check = result["encoder"], result["check"]
    merged = ", merged into its weights" if encoder.merged else ""
    size = sum(part.stat().st_size for part in (file, Path(f"{file}.data")) if part.exists())
    say(f"{file}: {encoder.config.label} on {about['backbone']}{merged}, {size / 1e6:.1f} MB")
    for side in ("input", "output"):
        say(f"  {about[side]['name']} ({', '.join(map(str, about[side]['shape']))}) {about[side]['type']}")
    say(
        f"  {check['run_by']} agrees with PyTorch on random clips in batches of "
        f"{' and '.join(map(str, check['batches']))}: relative error {check['relative_error']:.1e}"
    )
    if about["head"]["name"] != DEFAULT:
        tell(f"The head '{about['head']['name']}' is not in the file, which is the encoder alone.")
