"""3-D convolution that is right on CPUs in half precision, for clips shorter than the kernel too."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_HALF = (torch.bfloat16, torch.float16)


class Conv3d(nn.Conv3d):
    """``nn.Conv3d``, with its state-dict keys.

    On a CPU it convolves clips that are shorter than its kernel in float32, because in bfloat16 PyTorch reads memory
    there that nothing was written to (2.14, in oneDNN). With AVX-512, gradients of the weights are off by half
    of their size, or NaN; with AMX, outputs are NaN for a clip of one frame.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', n_t, n_h, n_w)."""
        return convolve_short(self, x) if is_short(self, x) else super().forward(x)


def is_short(conv: nn.Conv3d, x: Tensor) -> bool:
    """Tell whether a clip is shorter than the kernel, and about to be convolved in half precision on a CPU."""
    if x.device.type != "cpu" or not (torch.is_autocast_enabled("cpu") or conv.weight.dtype in _HALF):
        return False
    return x.shape[2] < conv.kernel_size[0]


def convolve_short(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """Convolve in float32; gives what the convolution would have been in."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else conv.weight.dtype
    with torch.autocast("cpu", enabled=False):
        bias = None if conv.bias is None else conv.bias.float()
        y = F.conv3d(x.float(), conv.weight.float(), bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    return y.to(dtype)
