"""Mixed precision rounds what is computed with, not the video."""

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips
from torch import nn

import d2st
from d2st.layers.convolution import Conv3d
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
def test_convolutions_of_clips_shorter_than_the_kernel_are_right(frames, kernel, channels_last):
    torch.manual_seed(0)
    conv = Conv3d(16, 16, (kernel, 1, 1), padding=(kernel // 2, 0, 0))
    x = torch.randn(4, 16, frames, 50, 1)
    if channels_last:
        x = torch.randn(4, frames, 50, 1, 16).movedim(-1, 1)

    def passed(lower):
        del [torch.full((size,), torch.nan) for size in (100, 1000, 10_000, 100_000) for _ in range(20)][:]
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = conv(x)
        [gradient] = torch.autograd.grad(y.float().square().sum(), conv.weight)
        return y.dtype, y.detach().float(), gradient

    exact, output, gradient = passed(False)
    for _ in range(3):
        rounded, near, own = passed(True)
        assert (exact, rounded) == (torch.float32, torch.bfloat16)
        torch.testing.assert_close(near, output, rtol=0.02, atol=0.02)
        assert (own - gradient).norm() < 0.02 * gradient.norm()
