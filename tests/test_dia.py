"""DiA: which frames a direction sees, where an adapter stands, and clips of one frame."""

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, gradients, move

import d2st

FAMILIES = pytest.mark.parametrize("family", ["clip-vit", "resnet-basic", "swin"])


def encoder_of(family="clip-vit", frames=FRAMES, **options):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), d2st.DiAConfig(**options), frames=frames, image_size=SIZE)
    move(encoder)
    return encoder


def changed(video, frames):
    """A clip with other frames there."""
    other = video.clone()
    other[:, frames] = clips(seed=1)[:, frames]
    return other


@torch.no_grad()
def frames_that_differ(encoder, video, other):
    """Frames whose features are not the same bit for bit."""
    return (encoder(video) != encoder(other)).any(2).any(0).nonzero().flatten().tolist()


@FAMILIES
def test_a_causal_encoder_never_sees_later_frames(family):
    encoder, video = encoder_of(family, direction="causal"), clips()
    for t in (1, 4, 7):
        assert frames_that_differ(encoder, video, changed(video, slice(t, None))) == list(range(t, FRAMES))
    with torch.no_grad():
        features = encoder(video)
        for seen in (1, 2, 5):  # a clip that goes on
            torch.testing.assert_close(encoder(video[:, :seen]), features[:, :seen], rtol=1e-4, atol=1e-5)


@FAMILIES
def test_an_anticausal_encoder_never_sees_earlier_frames(family):
    encoder, video = encoder_of(family, direction="anticausal"), clips()
    for t in (0, 3, 6):
        assert frames_that_differ(encoder, video, changed(video, slice(None, t + 1))) == list(range(t + 1))


@pytest.mark.parametrize(
    ("direction", "kernel", "seen_by"),
    [("both", 2, [3, 4, 5]), ("both", 3, [2, 3, 4, 5, 6]), ("causal", 3, [4, 5, 6]), ("anticausal", 1, [4])],
)
def test_a_direction_sees_as_many_frames_as_its_kernel(direction, kernel, seen_by):
    encoder, video = encoder_of(direction=direction, kernel=kernel, positions=(1,)), clips()
    assert frames_that_differ(encoder, video, changed(video, slice(4, 5))) == seen_by


def test_one_direction_has_no_shares_and_trains_as_a_whole():
    for direction in ("causal", "anticausal"):
        encoder = encoder_of(direction=direction)
        assert set(dict(encoder.adapters["blocks_0_input"].named_parameters())) == {
            f"{direction}.weight", "down.weight", "down.bias", "up.weight", "up.bias",
        }  # fmt: skip
        assert all(gradient.abs().max() > 0 for gradient in gradients(encoder, clips()).values())


def test_an_adapter_at_an_input_is_one_at_the_end_of_the_block_before():
    """And one at the end of the last block reaches no class token."""
    end, start = encoder_of(place="end"), encoder_of(positions=(1, 2))
    start.backbone.load_state_dict(end.backbone.state_dict())
    for i in (0, 1):
        start.adapters[f"blocks_{i + 1}_input"].load_state_dict(end.adapters[f"blocks_{i}"].state_dict())
    with torch.no_grad():
        assert torch.equal(start(clips()), end(clips()))
    got = gradients(end, clips())
    assert {name.split(".")[1] for name, gradient in got.items() if gradient.abs().max() == 0} == {"blocks_2"}


def test_a_frame_alone_passes_unchanged_as_released():
    encoder, video = encoder_of(), clips(frames=1)
    frozen = d2st.adapt(BACKBONES["clip-vit"](), d2st.NoneConfig())
    frozen.backbone.load_state_dict(encoder.backbone.state_dict())
    with torch.no_grad():
        assert torch.equal(encoder(video), frozen(video))
    with pytest.raises(d2st.D2STError, match=r"DiAConfig.*frames=1 nothing would train; give frames=2"):
        encoder_of(frames=1)
    assert gradients(encoder_of(frames=1, direction="causal"), video)


def test_its_classifier_has_the_released_drop_out():
    model = d2st.VideoClassifier(encoder_of(), 5)
    assert model.head.dropout.p == 0.25 and model(clips()).shape == (2, 5)
