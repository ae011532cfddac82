"""Mixed precision rounds what is computed with, not the video."""

import copy

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips
from torch import nn

import d2st
from d2st.layers.convolution import Conv3d
from d2st.layers.depthwise import DepthwiseConv3d
from d2st.utils.distributed import launch, mixed_precision


class Looks(nn.Module):
    """Tells of which types its input and a product of it are."""

    def __init__(self):
        super().__init__()
        self.linear, self.seen = nn.Linear(4, 4), None

    def forward(self, video, more):
        y = self.linear(video)
        self.seen = video.dtype, more["target"].dtype, y.dtype
        return y, video.diff(dim=0)


def test_a_model_sees_the_video_as_it_is():
    slow = torch.linspace(1, 1.01, 8)[:, None].repeat(1, 4)  # neighbors that bfloat16 cannot tell apart
    for precision, product in (("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)):
        fabric = launch(torch.device("cpu"), precision)
        model = fabric.setup(Looks())
        y, differences = model(slow, {"target": slow})
        assert model.module.seen == (torch.float32, torch.float32, product)
        assert y.dtype == torch.float32 and torch.equal(differences, slow.diff(dim=0))
        fabric.backward(y.sum())
        assert model.module.linear.weight.grad.isfinite().all()


def test_fp16_scales_its_loss_on_a_gpu_and_is_bfloat16_on_a_cpu():
    precision = launch(torch.device("cpu"), "16-mixed").strategy.precision
    assert type(precision).__name__ == "WholeInputs"
    assert precision.state_dict() == {}
    assert mixed_precision("16-mixed", "cuda").scaler is not None


def test_framesets_with_antialiasing_train_in_mixed_precision_on_a_cpu():
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), d2st.DualPathConfig(tiles=2, antialias=True), frames=FRAMES)
    fabric = launch(torch.device("cpu"), "bf16-mixed")
    features = fabric.setup(encoder)(clips(size=(SIZE, SIZE)))
    fabric.backward(features.square().mean())
    gradients = [p.grad for p in encoder.trainable_parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("frames", "kernel"), [(1, 3), (2, 3), (3, 5), (4, 5), (8, 3)])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("made", [Conv3d, DepthwiseConv3d])
def test_convolutions_of_clips_shorter_than_the_kernel_are_right_in_half_precision(frames, kernel, channels_last, made):
    torch.manual_seed(0)
    shape = {"kernel_size": (kernel, 1, 1)} if made is Conv3d else {"kernel": (kernel, 1, 1)}
    conv = made(*([16, 16] if made is Conv3d else [16]), **shape, padding=(kernel // 2, 0, 0))
    half = copy.deepcopy(conv).bfloat16()
    conv.load_state_dict(half.state_dict())
    x = torch.randn(4, 16, frames, 50, 1).bfloat16().float()
    if channels_last:
        x = x.to(memory_format=torch.channels_last_3d)

    def passed(conv, x, autocast):
        del [torch.full((size,), torch.nan) for size in (100, 1000, 10_000, 100_000) for _ in range(20)][:]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            y = conv(x)
        [gradient] = torch.autograd.grad(y.float().square().sum(), conv.weight)
        return y, gradient.float()

    output, gradient = passed(conv, x, False)
    for inputs in ((conv, x, True), (half, x.bfloat16(), False), (conv, x.bfloat16(), True)):
        for _ in range(3):
            near, own = passed(*inputs)
            assert near.dtype == torch.bfloat16 or made is DepthwiseConv3d
            torch.testing.assert_close(near.float(), output, rtol=0.02, atol=0.02)
            assert (own - gradient).norm() < 0.02 * gradient.norm()
