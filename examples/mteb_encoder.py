"""Evaluate an encoder by mteb, the public benchmark of embeddings, on its video tasks (MVEB): HMDB51, SSv2, Diving48, …

    pip install mteb torchcodec  # which needs FFmpeg
    python examples/mteb_encoder.py runs/first/best --tasks HMDB51Classification SomethingSomethingV2Classification

downloads the tasks' clips. The class needs neither mteb nor a parent from it: it has the methods that mteb's
EncoderProtocol names. It reads its T frames from each clip itself, however many frames that has. Where mteb 2.26 reads
a fixed number, it takes every floor(L / T)-th of L frames from the first one on, and may miss almost half of a clip.
"""

import argparse
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import d2st
from d2st.data import sampler
from d2st.data.clip_reading import ClipReading
from d2st.data.video.open import read_any
from d2st.features.fingerprint import digest


class ReadClips:
    """Make a batch of the benchmark's rows, in the loader's workers, which decode only the frames that are used."""

    def __init__(self, encoder: d2st.VideoEncoder, frames: int | None = None):
        reading = ClipReading.of(encoder, frames=frames)  # as the adapter was trained
        self.sample = sampler(reading.sampling, reading.frames, stride=reading.stride)
        self.transform = encoder.transform()

    def __call__(self, rows: list[dict]) -> Tensor:
        """Rows with a "video" of any length and size -> float32 (B, T, 3, h, w)."""
        return torch.stack([self.read(row["video"]) for row in rows])

    def read(self, video) -> Tensor:
        """Read a torchcodec decoder, uint8 frames (L, 3, H, W) or a file: -> float32 (T, 3, h, w)."""
        if not hasattr(video, "get_frames_at"):
            return read_any(video, self.sample, self.transform)
        indices = self.sample(len(video), video.metadata.average_fps or 0.0, None)  # (T,)
        return self.transform(video.get_frames_at(indices.tolist()).data)


class MtebEncoder:
    """Embed clips for mteb: one vector a clip, the mean of the features of its frames.

    Args:
        model_name: folder of an adapter, or a Hub repository "user/name". The frozen backbone is an adapter too:
            ``d2st.adapt(backbone, d2st.NoneConfig()).save_pretrained("frozen")``.
        revision: of the repository; None is its newest.
        device: None is a GPU where there is one.
        frames: T, read from each clip; None is as the adapter was trained.
        weights: weight file of the backbone, where one was used.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        frames: int | None = None,
        weights: str | None = None,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.encoder = d2st.load(model_name, revision=revision, weights=weights).to(self.device)
        self.encoder.check_clips_apart()  # an embedding must not depend on the batch that it was made in
        self.frames = frames
        self.read_clips = ReadClips(self.encoder, frames)

    @torch.inference_mode()
    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs) -> np.ndarray:
        """Embed the clips of a DataLoader whose rows have a "video"; all else that mteb tells is for texts.

        Returns:
            (N, D) float32, not normalized: its classifiers want them so, and similarities are cosines.
        """
        inputs.collate_fn = self.read_clips
        embeddings = [self.encoder(video.to(self.device)).mean(1).float().cpu() for video in inputs]  # of (B, D)
        return torch.cat(embeddings).numpy()

    def similarity(self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor) -> Tensor:
        """Compare all with all by their cosines, (N, D), (M, D) -> (N, M)."""
        return unit(embeddings1) @ unit(embeddings2).mT

    def similarity_pairwise(self, embeddings1: np.ndarray | Tensor, embeddings2: np.ndarray | Tensor) -> Tensor:
        """Compare each with its partner by their cosine, (N, D), (N, D) -> (N,)."""
        return (unit(embeddings1) * unit(embeddings2)).sum(-1)

    @cached_property
    def mteb_model_meta(self):
        """Describe the model; mteb keeps results by name, revision and frames, so the revision tells weights apart."""
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        about = {
            "name": f"d2st/{self.encoder.config.name}-{self.encoder.backbone_name}",
            "revision": digest(self.encoder, []).hexdigest()[:12],
            "experiment_kwargs": {"frames": self.frames} if self.frames else None,
            "modalities": ["video"],
            "embed_dim": self.encoder.num_features,
            "n_parameters": self.encoder.parameter_count()[1],
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch"],
            "use_instructions": False,
        }
        return ModelMeta.create_empty(about)


def unit(embeddings: np.ndarray | Tensor) -> Tensor:
    """Scale vectors to length 1, (N, D) or (D,) -> (N, D)."""
    return F.normalize(torch.atleast_2d(torch.as_tensor(embeddings)).float(), dim=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapter", help="folder of a trained adapter, or a Hub repository user/name")
    parser.add_argument("--tasks", nargs="+", default=["HMDB51Classification"], help="mteb's names of its video tasks")
    parser.add_argument("--frames", type=int, help="read from each clip; by default as the adapter was trained")
    parser.add_argument("--weights", help="weight file of its backbone, where one was used")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, help="processes that read clips")
    arguments = parser.parse_args()

    import mteb

    model = MtebEncoder(arguments.adapter, frames=arguments.frames, weights=arguments.weights)
    tasks = mteb.get_tasks(tasks=arguments.tasks)
    settings = {"batch_size": arguments.batch_size}
    for result in mteb.evaluate(model, tasks, encode_kwargs=settings, num_proc=arguments.workers):
        print(f"{result.task_name}: {result.get_score():.4f}")


if __name__ == "__main__":
    main()
