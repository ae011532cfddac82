"""A frozen backbone that keeps its weights rounded gives the bits of one that rounds them in every pass."""

import copy

import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, move, same
from torch import nn

import d2st
from d2st.errors import D2STError
from d2st.features.prefix import split_encoder


def adapted(family="vit", config=None):
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES[family](), config, frames=FRAMES, image_size=SIZE)
    move(encoder)
    return encoder


def weights(encoder):
    """Bytes of linear layers and convolutions that are frozen."""
    layers = [m for m in encoder.backbone.modules() if type(m) is nn.Linear or isinstance(m, nn.Conv2d)]
    return sum(p.nbytes for layer in layers for p in layer.parameters(recurse=False) if not p.requires_grad)


@pytest.mark.parametrize("family", BACKBONES)
def test_bits_are_the_same(family):
    whole = adapted(family)
    halved, video = copy.deepcopy(whole).half_weights(), clips()
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = whole(video), halved(video)
    assert same(got, expected, family) and same(halved(video), expected, family), "autocast is on without being asked"
    for encoder in (whole, halved):
        with torch.autocast("cpu", torch.bfloat16):
            encoder.train()(video).float().square().mean().backward()
    for one, other in zip(whole.trainable_parameters(), halved.trainable_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert weights(halved) < 0.52 * weights(whole)


@pytest.mark.parametrize("family", BACKBONES)
def test_a_classifier_on_rounded_weights_trains_in_float32(family):
    model = d2st.VideoClassifier(adapted(family, d2st.STConfig()).half_weights(), 3)
    assert {parameter.dtype for parameter in model.trainable_parameters()} == {torch.float32}


def test_maps_and_fp16():
    whole, video = adapted("resnet-basic"), clips()
    halved = copy.deepcopy(whole).half_weights("fp16")
    assert {p.dtype for p in halved.backbone.parameters()} == {torch.float16, torch.float32}
    with torch.autocast("cpu", torch.float16):
        expected = whole.features_and_maps(video)
    for a, b in zip(halved.features_and_maps(video), expected, strict=True):
        assert torch.equal(a, b)


def test_a_saved_adapter_goes_onto_either(tmp_path):
    halved = adapted(config=d2st.STConfig()).half_weights()
    halved.save_pretrained(tmp_path)
    torch.manual_seed(0)
    loaded = d2st.load(tmp_path, backbone=BACKBONES["vit"]())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loaded(clips()), halved(clips()))


def test_after_merging():
    whole = adapted(config=d2st.LoRAConfig()).merge()
    halved = copy.deepcopy(whole).half_weights()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(halved(clips()), whole(clips()))


@pytest.mark.parametrize("family", ["vit", "resnet-basic"])
def test_split_at_the_first_adapter(family):
    """Where nobody turns autocast on: both parts together are the whole."""
    halved = adapted(family, d2st.STConfig(positions=(1, 2), temporal_embedding=False, train_class_token=False))
    halved.half_weights()
    suffix, video = split_encoder(halved), clips(batch=1)
    with torch.no_grad():
        whole, parts = halved(video), suffix(suffix.prefix(video[0]).unsqueeze(0))
    torch.testing.assert_close(parts, whole, rtol=0.02, atol=0.02)


def test_what_is_refused():
    encoder = adapted()
    with pytest.raises(D2STError, match=r"precision='fp32' is none of bf16, fp16"):
        encoder.half_weights("fp32")
    with pytest.raises(D2STError, match=r"precision=\['bf16'\] is none of bf16, fp16"):
        encoder.half_weights(["bf16"])
    encoder.half_weights()
    with pytest.raises(D2STError, match=r"in torch.bfloat16 already"):
        encoder.half_weights()
    with pytest.raises(D2STError, match=r"in torch.bfloat16 already"):
        adapted().to(torch.bfloat16).half_weights()
    with pytest.raises(D2STError, match=r"FullConfig trains the whole backbone"):
        adapted(config=d2st.FullConfig()).half_weights()
    with pytest.raises(D2STError, match=r"taken out by restore"):
        restored = adapted()
        restored.restore()
        restored.half_weights()


@pytest.mark.parametrize(
    ("family", "config"), [("vit", d2st.STConfig()), ("vit", d2st.LSNConfig(width=16)), ("resnet-basic", None)]
)
def test_classifiers_on_it(family, config):
    """Those that run the backbone themselves (ST-Adapter's on a ViT), and features that come in half precision."""
    classifier = d2st.VideoClassifier(adapted(family, config), 3)
    with torch.autocast("cpu", torch.bfloat16):
        expected = classifier(clips())
    classifier.encoder.half_weights()
    assert torch.equal(classifier(clips()), expected)
