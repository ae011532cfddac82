"""Mixed precision rounds what is computed with, not the video."""

import torch
from families import BACKBONES, FRAMES, SIZE, clips
from torch import nn

import d2st
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
