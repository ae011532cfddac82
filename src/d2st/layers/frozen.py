"""Layers of a frozen backbone that keep less for the backward pass.

PyTorch's layers keep what the gradients of their weights will need, and composed activations keep every step. A frozen
layer passes gradients on to its input and needs less:

========================  ===========================  ==================
layer                     ordinary                     here
========================  ===========================  ==================
QuickGELU (CLIP)          its input and the sigmoid    one map
convolution               its input                    nothing
BatchNorm in eval mode    its input                    nothing
attention in bf16 (CPU)   q, k, v and its output       q, k, v
========================  ===========================  ==================

The rest of a backbone is lean as it is: a Linear keeps its input only for the gradient of its weight, LayerNorm needs
its input for that of its input, and GELU, SiLU and ReLU keep one map.

Forward values are those of the ordinary layers, bit for bit; but for QuickGELU in bf16 on a CPU, which takes a quicker
way to the same digits. There attention has a quicker gradient (:mod:`d2st.layers.attention`). A layer whose weight
trains after all, and BatchNorm in training mode, are ordinary layers. So is everything under ``torch.compile`` and
``torch.export``, where the compiler decides what is kept, and under the transforms of ``torch.func``.
"""

import torch
import torch.nn.functional as F
from timm.layers import Attention, BatchNormAct2d
from timm.layers.activations import QuickGELU
from timm.models.eva import EvaAttention
from torch import Tensor, nn
from torch.autograd import Function

from .attention import QuickAttention
from .plain import is_batched, transformed


def lean(model: nn.Module) -> None:
    """Make the frozen layers of a model keep less, in place; names, parameters and hooks stay."""
    for module in model.modules():
        if type(module) in _LEAN:
            module.__class__ = _LEAN[type(module)]


def ordinary(model: nn.Module) -> None:
    """Undo :func:`lean`, in place."""
    for module in model.modules():
        if type(module) in _ORDINARY:
            module.__class__ = _ORDINARY[type(module)]


def _keeps_graph(x: Tensor) -> bool:
    """Tell whether eager autograd records what happens to ``x``: the only case in which there is something to save."""
    return torch.is_grad_enabled() and x.requires_grad and not transformed()


class LeanQuickGELU(QuickGELU):
    """``x * sigmoid(1.702 * x)``, keeping x alone, in one map of memory where three are usual."""

    def forward(self, x: Tensor) -> Tensor:
        if transformed():
            return super().forward(x)
        return _QuickGELU.apply(x) if _keeps_graph(x) else _quick_gelu(x)


class LeanConv2d(nn.Conv2d):
    """A convolution whose gradient reaches its input alone, for which it need not know that input."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plain = self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if plain and _keeps_graph(x) and _frozen(weight, bias):
            return _Conv2d.apply(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return super()._conv_forward(x, weight, bias)


class LeanBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with fixed statistics: a scale and a shift for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return _frozen_norm(self, x) if _is_frozen_norm(self, x) else super().forward(x)


class LeanBatchNormAct2d(BatchNormAct2d):
    """timm's BatchNorm with an activation, with fixed statistics."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(_frozen_norm(self, x))) if _is_frozen_norm(self, x) else super().forward(x)


class LeanAttention(QuickAttention, Attention):
    """The attention of a ViT."""


class LeanEvaAttention(QuickAttention, EvaAttention):
    """The attention of a ViT with rotary positions (EVA, DINOv3)."""


_LEAN = {
    Attention: LeanAttention,
    EvaAttention: LeanEvaAttention,
    QuickGELU: LeanQuickGELU,
    nn.Conv2d: LeanConv2d,
    nn.BatchNorm2d: LeanBatchNorm2d,
    BatchNormAct2d: LeanBatchNormAct2d,
}
_ORDINARY = {lean: ordinary for ordinary, lean in _LEAN.items()}


def _frozen(*tensors: Tensor | None) -> bool:
    """Tell whether none of these gets a gradient; of a parametrized or pruned layer they are no parameters."""
    return not any(tensor.requires_grad for tensor in tensors if tensor is not None)


def _is_frozen_norm(norm: nn.BatchNorm2d, x: Tensor) -> bool:
    fixed = not norm.training and norm.affine and norm.track_running_stats
    return fixed and _keeps_graph(x) and _frozen(norm.weight, norm.bias)


def _frozen_norm(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return _BatchNorm.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)


def _quick_gelu(x: Tensor) -> Tensor:
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":  # SiLU has a kernel of its own there
        return F.silu(1.702 * x, inplace=True).mul_(1 / 1.702)
    return (1.702 * x).sigmoid_().mul_(x)


class _QuickGELU(Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _quick_gelu(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        scaled = 1.702 * ctx.saved_tensors[0]  # x * sigmoid(1.702 x) is SiLU with both axes scaled
        if not torch.is_grad_enabled() and not is_batched(gradient):
            # Written over, because fresh memory costs more than the arithmetic. PyTorch cannot differentiate it.
            return torch.ops.aten.silu_backward.grad_input(gradient, scaled, grad_input=scaled)
        gate = torch.sigmoid(scaled)
        return gradient * gate * (1 + scaled * (1 - gate))


class _Conv2d(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, *how) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.how, ctx.shape = how, x.shape
        return F.conv2d(x, weight, bias, *how)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight = ctx.saved_tensors[0].to(gradient.dtype)  # autocast: the gradient comes in the lower precision
        return torch.nn.grad.conv2d_input(ctx.shape, weight, gradient, *ctx.how), *[None] * 6


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(weight, variance)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weight, variance = ctx.saved_tensors
        scale = weight * torch.rsqrt(variance + ctx.eps)  # (C,)
        return (gradient * scale[:, None, None]).to(gradient.dtype), *[None] * 5
