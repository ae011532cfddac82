"""Measure the cost of an encoder: FLOPs, seconds and memory of a forward pass and of a training step.

A training step is a forward pass in training mode and the backward pass of a loss that sees every feature, without an
optimizer. An encoder with nothing to train back-propagates to its input, which is what any adapter at the first block
has to do and so the least that such adapters can cost.
"""

import contextlib
import copy
import itertools
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from ..encoder import VideoEncoder
from ..utils.device import Precision, autocast
from ..utils.modes import in_mode

Task = Callable[[VideoEncoder, Tensor, Precision], None]


class Seconds(NamedTuple):
    """Time of one run: on the clock, and of all processors (which other programs disturb less)."""

    wall: float
    cpu: float


def forward(encoder: VideoEncoder, video: Tensor, precision: Precision = "fp32") -> None:
    """Compute the features of clips (B, T, 3, H, W), without gradients."""
    with torch.no_grad(), autocast(video.device, precision):
        encoder(video)


def step(encoder: VideoEncoder, video: Tensor, precision: Precision = "fp32") -> None:
    """Take a training step on clips (B, T, 3, H, W), without an optimizer; gradients are left."""
    _loss(encoder, video, precision).backward()


def count_flops(encoder: VideoEncoder, video: Tensor) -> tuple[int, int]:
    """Count the FLOPs of a forward pass and of a training step, by torch's counter.

    A multiplication and an addition are two. Counted are matrix products, convolutions and attention; norms,
    activations and the sampling at reference points are not, about half a percent of a ViT.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_flop_rules())
    with in_mode(encoder, training=True), counter:
        # with gradients, because without them the counter's hooks fail on views of parameters
        loss = _loss(encoder, video, "fp32")
        forward_flops = counter.get_total_flops()
        loss.backward()
    encoder.zero_grad()
    return forward_flops, counter.get_total_flops()


def peak_memory(encoder: VideoEncoder, video: Tensor, precision: Precision = "fp32") -> int:
    """Measure the most bytes that activations and gradients of a training step take at once, above the weights.

    On a GPU this is what PyTorch's allocator says, on a CPU the sum over the profiler's record of every allocation.
    Unlike the memory of the process, it neither depends on what was run before nor counts what the allocator keeps
    back. Working memory inside of libraries (oneDNN, cuBLAS) is not in it.
    """
    encoder.zero_grad()
    with in_mode(encoder, training=True):
        peak = measure_peak(lambda: step(encoder, video, precision), video.device)
    encoder.zero_grad()
    return peak


def measure_peak(run: Callable[[], object], device: torch.device) -> int:
    """Measure the most bytes that a run takes at once, above those that are taken before it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet_stderr(), profile(profile_memory=True) as record:
        run()
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    changes = [change for _, change in sorted((event.start_ns(), event.nbytes()) for event in events)]
    return max(itertools.accumulate(changes, initial=0))


def seconds(task: Task, encoder: VideoEncoder, video: Tensor, precision: Precision = "fp32") -> Seconds:
    """Time one run of :func:`forward` or :func:`step`."""
    with in_mode(encoder, training=task is step):
        result = measure_seconds(lambda: task(encoder, video, precision), video.device)
    encoder.zero_grad()
    return result


def measure_seconds(run: Callable[[], object], device: torch.device) -> Seconds:
    """Time a run, to its end on the device."""
    _wait(device)
    used, start = time.process_time(), time.perf_counter()
    run()
    _wait(device)
    return Seconds(time.perf_counter() - start, time.process_time() - used)


def shared_copy(model: nn.Module) -> nn.Module:
    """Copy a model on the same memory for its parameters, so that many fit where one does."""
    shared = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, shared)


def _loss(encoder: VideoEncoder, video: Tensor, precision: Precision) -> Tensor:
    frozen = not encoder.trainable_parameters()
    with autocast(video.device, precision):
        features = encoder(video.detach().requires_grad_(frozen))
    return features.float().square().mean()


def _flop_rules() -> dict:
    """Give the rules that torch's counter lacks in some versions or has wrong, by operator."""
    rules = {torch.ops.aten.convolution_backward: _convolution_backward_flops}
    # Attention in one piece on a CPU: some versions count it, others take it for nothing.
    for name, rule in {"": _attention_flops, "_backward": _attention_backward_flops}.items():
        operator = getattr(torch.ops.aten, f"_scaled_dot_product_flash_attention_for_cpu{name}", None)
        if operator is not None:
            rules[operator] = rule
    return rules


def _attention_flops(query, key, value, *more, out_shape=None, **options):
    """Count two products, queries (..., N, D) with keys (..., M, D) and weights (..., N, M) with values (..., M, E)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward_flops(gradient, query, key, value, *more, out_shape=None, **options):
    """Count five products: the weights once more, their gradient, and those of queries, keys and values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (3 * query[-1] + 2 * value[-1])


def _convolution_backward_flops(gradient, x, weight, *more, out_shape=None):
    """Count the forward once a gradient; torch's own rule takes a grouped convolution's weights for a dense one's."""
    *_, transposed, _, _, wanted = more  # ..., output_padding, groups, which of the gradients of x, weight and bias
    places = x if transposed else gradient  # (B, C, ...)
    return 2 * places[0] * math.prod(places[2:]) * math.prod(weight) * sum(wanted[:2])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence the process's stderr, where the profiler's library writes its starts and stops, past any setting."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        kept = os.dup(2)
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
