"""Write an encoder as one file that runs without d2st: ONNX or torch.export, checked against PyTorch.

The file says what a program needs to run it (:func:`describe`): as JSON under the key ``d2st`` of an ONNX file's
``metadata_props``, and as the extra file ``d2st.json`` of a torch.export file.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .data.clip_reading import ClipReading
from .encoder import VideoEncoder
from .errors import D2STError
from .utils.finite import check_finite
from .utils.modes import evaluating
from .utils.provenance import plain
from .version import __version__

FORMAT = 1
KEY = "d2st"
LIMIT = 1e-4  # largest relative error of a file that is kept
BATCHES = 1, 3
PROTOBUF_BYTES = 2**31 - 2**24  # what an ONNX file holds; more weights go into a file beside it

Run = Callable[[Tensor], Tensor]


def export_encoder(encoder: VideoEncoder, file: str | Path, about: dict | None = None, seed: int = 0) -> dict:
    """Write an encoder as a file, and run that on random clips.

    The batch size stays open; frames and image size are fixed. The file is not written in one step: the command
    (:mod:`d2st.commands.export`) gives a temporary folder.

    Args:
        encoder: on the CPU, in float32.
        file: ``.onnx``, or ``.pt2`` for torch.export.
        about: what the file says about itself; None is :func:`describe`.
        seed: of the random clips.

    Returns:
        ``encoder``, what the file says, and ``check``: the relative error (:func:`relative_error`), the batch sizes
        that were tried, and what ran the file.

    Raises:
        D2STError: clips that see each other, an encoder elsewhere or in another precision, another ending, a package is
            missing, PyTorch cannot translate the encoder, or the file gives other features than PyTorch.
    """
    encoder.check_clips_apart()
    _check_parameters(encoder)
    file, writers = Path(file), {".onnx": _write_onnx, ".pt2": _write_pt2}
    if file.suffix not in writers:
        raise D2STError(f"'{file.name}' must end in .onnx or .pt2: the ending says which kind of file it is.")
    if file.suffix == ".onnx":
        import_onnx()
    with evaluating(encoder):
        return _export(encoder, file, writers[file.suffix], about or describe(encoder), seed)


def _check_parameters(encoder: VideoEncoder) -> None:
    """Refuse what would not compute in float32, as its file says, or is not where it is traced."""
    kinds = {f"{own.dtype} on {own.device.type}" for own in encoder.parameters() if own.is_floating_point()}
    if encoder.halves or kinds != {"torch.float32 on cpu"}:
        raise D2STError(
            f"An exported file computes in float32 and is traced on the CPU; the weights of this encoder are "
            f"{' and '.join(sorted(kinds))}. Give encoder.float().cpu(); after half_weights, load it anew."
        )


def _export(encoder: VideoEncoder, file: Path, write: Callable, about: dict, seed: int) -> dict:
    """Do as :func:`export_encoder`, with an encoder in eval mode."""
    clip = about["input"]["shape"][1:]  # (T, 3, H, W)
    video = torch.randn(2, *clip, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features = encoder(video)  # tells the hooks the number of frames before anything is traced
    check_finite(features, ["random", "random"], "fp32")
    try:
        run, runner = write(encoder, video, about, file)
    except D2STError:
        raise
    except Exception as error:  # tracing and conversion fail in too many ways to name
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise D2STError(
            f"PyTorch {torch.__version__} cannot translate {type(encoder.config).__name__} on "
            f"{type(encoder.backbone).__name__} to {file.suffix}: {reason} (--debug shows where)."
        ) from error
    error = relative_error(run, encoder, clip, seed)
    if not error <= LIMIT:  # so that NaN is refused too
        raise D2STError(
            f"The {file.suffix} file of {type(encoder.config).__name__} on {type(encoder.backbone).__name__} gives "
            f"other features than PyTorch: a relative error of {error:.1e}, where {LIMIT:.0e} is allowed. Take the "
            f"other kind of file (.onnx, .pt2), or another release of PyTorch ({torch.__version__}) or {runner}."
        )
    return {"encoder": about, "check": {"relative_error": error, "batches": list(BATCHES), "run_by": runner}}


@torch.no_grad()
def describe(encoder: VideoEncoder, reading: ClipReading | None = None) -> dict:
    """Describe what a program must know to run an encoder's file; ``docs/export.md`` has the fields.

    Args:
        encoder: the encoder.
        reading: how clips are to be read; None is as it was trained.

    Raises:
        D2STError: the encoder cannot take so many frames.
    """
    reading, size = reading or ClipReading.of(encoder), encoder.image_size
    frames = reading.frames
    with evaluating(encoder):
        features = encoder(torch.zeros(1, frames, 3, *size)).shape[1:]  # (T', D)
    return {
        "format": FORMAT,
        "d2st_version": __version__,
        "backbone": encoder.backbone_name or type(encoder.backbone).__name__,
        "adapter": plain(encoder.config),
        "input": {"name": "video", "shape": ["batch", frames, 3, *size], "type": "float32"},
        "output": {"name": "features", "shape": ["batch", *features], "type": "float32"},
        "frames": frames,
        "sampling": reading.sampling,
        **({"stride": reading.stride} if reading.sampling == "stride" else {}),
        "transforms": reading.transforms,
        "image_size": list(size),
        **_resizing(reading, encoder),
        "mean": list(encoder.mean),
        "std": list(encoder.std),
        "feature_size": encoder.num_features,
    }


def _resizing(reading: ClipReading, encoder: VideoEncoder) -> dict:
    if reading.transforms == "released":
        side = encoder.preprocessing.released_size()[1]
        return {"resize": f"to {side}x{side}, then center crop", "interpolation": "bilinear", "antialias": False}
    return {"resize": "cover, then center crop", "interpolation": encoder.interpolation, "antialias": True}


@torch.no_grad()
def relative_error(run: Run, encoder: VideoEncoder, clip: list[int], seed: int) -> float:
    """Measure the largest difference of features between an encoder's file and the encoder, over the largest feature.

    Args:
        run: the file, (B, T, 3, H, W) -> (B, T', D).
        encoder: the encoder.
        clip: (T, 3, H, W).
        seed: of the random clips, in batches of 1 and of 3.
    """
    generator, errors = torch.Generator().manual_seed(seed), []
    for batch in BATCHES:
        video = torch.randn(batch, *clip, generator=generator)
        expected = encoder(video)  # (B, T', D)
        errors.append((run(video) - expected).abs().max() / expected.abs().max())
    return torch.stack(errors).max().item()  # NaN if one is


def import_onnx():
    """Import onnxruntime, once the packages that write ONNX are there too.

    Raises:
        D2STError: one of them is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise D2STError(
            f'ONNX files need {error.name}, which is not installed: pip install "d2st[export]". A .pt2 file '
            "(--format pt2) does without."
        ) from error
    return onnxruntime


def _trace(encoder: VideoEncoder, video: Tensor) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(encoder, (video,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))


def _write_pt2(encoder: VideoEncoder, video: Tensor, about: dict, file: Path) -> tuple[Run, str]:
    torch.export.save(_trace(encoder, video), file, extra_files={f"{KEY}.json": json.dumps(about)})
    return torch.export.load(file).module(), f"PyTorch {torch.__version__}"


def _write_onnx(encoder: VideoEncoder, video: Tensor, about: dict, file: Path) -> tuple[Run, str]:
    onnxruntime = import_onnx()
    names = [about["input"]["name"]], [about["output"]["name"]]
    program = torch.onnx.export(
        _trace(encoder, video),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: "batch"},),
        input_names=names[0],
        output_names=names[1],
    )
    program.model.metadata_props[KEY] = json.dumps(about)
    size = sum(tensor.nbytes for tensor in (*encoder.parameters(), *encoder.buffers()))
    program.save(file, external_data=size > PROTOBUF_BYTES)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> Tensor:
        return torch.from_numpy(session.run(names[1], {names[0][0]: clips.numpy()})[0])

    return run, f"onnxruntime {onnxruntime.__version__}"
