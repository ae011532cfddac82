"""3-D convolution."""

import torch
from torch import Tensor, nn


class Conv3d(nn.Conv3d):
    """``nn.Conv3d`` that is right for clips shorter than its kernel too; with its state-dict keys.

    Under autocast on a CPU it convolves such clips in the precision of its weights, because in bfloat16 PyTorch reads
    memory there that nothing was written to (seen with 2.14, in oneDNN): with AVX-512, gradients of the weights are off
    by half of their size, or NaN; with AMX, outputs are NaN for a clip of one frame.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, C', n_t, n_h, n_w)."""
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or x.shape[2] >= self.kernel_size[0]:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            y = super().forward(x.to(self.weight.dtype))
        return y.to(torch.get_autocast_dtype("cpu"))
