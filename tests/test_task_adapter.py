"""Task-Adapter: the authors' numbers, and who sees whom."""

from functools import partial

import goldens
import pytest
import torch
from families import BACKBONES, FRAMES, SIZE, clips, move, on_meta
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import d2st
from d2st import heads
from d2st.adapters.aim import Bottleneck

PRECISIONS = pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=str)
PREFIX = "transformer.resblocks.0."


def encoder_of(**options):
    torch.manual_seed(0)
    config = d2st.TaskAdapterConfig(**options)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), config, frames=FRAMES, image_size=SIZE)
    move(encoder)
    return encoder


def clip_vit(width, depth, side, positions, videos):
    """A ViT of a golden's size, built as OpenAI's are."""
    vit = VisionTransformer(
        img_size=side, patch_size=8, embed_dim=width, depth=depth, num_heads=4, num_classes=0, pre_norm=True,
        act_layer=QuickGELU, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    return d2st.adapt(vit, d2st.TaskAdapterConfig(positions=positions, videos=videos))


def check(ours, theirs, limit, what):
    error = goldens.relative_error(ours, theirs)
    assert error <= limit, f"{what}: {error:.2e}"


def check_gradients(module, gradients, limit):
    """The gradient of every parameter that the authors train and reach, and no gradient elsewhere."""
    theirs = d2st.official.translate(module, gradients, "task-adapter")
    ours = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        check(gradient, theirs[name], limit, name)


@PRECISIONS
@pytest.mark.parametrize("case", goldens.find("ta_adapter_*"))
def test_the_adapter_is_the_authors(case, dtype, limit):
    _, golden = goldens.read(case)
    adapter = Bottleneck(64, 16, skip="noskip" not in case).to(dtype)
    assert d2st.official.load(adapter, goldens.weights(golden, dtype), "task-adapter") == {}
    x = golden["in/x"].to(dtype).requires_grad_()
    y = adapter(x)
    (y * golden["in/cotangent"].to(dtype)).sum().backward()
    check(y, golden["out/y"], limit, "y")
    check(x.grad, golden["gi/x"], limit, "gradient of x")
    check_gradients(adapter, goldens.weights(golden, None, "g/"), limit)


@PRECISIONS
@pytest.mark.parametrize("case", goldens.find("ta_block_*"))
def test_a_block_is_the_authors(case, dtype, limit):
    """Of one clip also by the attention of ours, in which clips are alone."""
    about, golden = goldens.read(case)
    width, alone = golden["in/x"].shape[2], about["videos"] == 1
    adapted = "frozen" not in case
    for videos in ("together", "alone") if alone else ("together",):
        encoder = clip_vit(width, 2, 8 if golden["in/x"].shape[1] == 2 else 16, (0 if adapted else 1,), videos)
        encoder.to(dtype)
        state = {PREFIX + name: weight for name, weight in goldens.weights(golden, dtype).items()}
        ours = d2st.official.translate(encoder, state, "task-adapter")
        own = encoder.state_dict()
        assert adapted == (ours.keys() <= own.keys())
        encoder.load_state_dict(own | {name: weight for name, weight in ours.items() if name in own})
        x = golden["in/x"].to(dtype).requires_grad_()  # (V*T, N, C)
        encoder.clip.set(8, encoder.image_size)
        y = encoder.backbone.blocks[0](x)
        (y * golden["in/cotangent"].to(dtype)).sum().backward()
        check(y, golden["out/y"], limit, "y")
        check(x.grad, golden["gi/x"], limit, "gradient of x")
        gradients = goldens.weights(golden, None, "g/")
        check_gradients(encoder, {PREFIX + name: gradient for name, gradient in gradients.items()}, limit)


@PRECISIONS
@pytest.mark.parametrize("case", goldens.find("ta_encoder_*"))
def test_an_episode_is_the_authors(case, dtype, limit):
    """Frames to features, loss and gradients: one call for the supports and one for the queries."""
    about, golden = goldens.read(case)
    if about["gpus_emulated"] > 1:
        pytest.skip("clips split among processors do not see each other, an accident of the release")
    proj = golden["w/proj"].to(dtype)  # CLIP's projection, behind our features
    adapted = {int(name.split(".")[2]) for name in goldens.weights(golden, None, "g/") if "resblocks" in name}
    encoder = clip_vit(len(proj), max(adapted) + 1, 16, tuple(adapted), "together").to(dtype)
    state = {f"feature.{name}": weight for name, weight in goldens.weights(golden, dtype).items()}
    for name, weight in state.items():  # of a block that is not adapted they never trained
        if name.endswith("D_fc2.weight") and int(name.split(".")[3]) not in adapted and "task" not in name:
            weight.zero_()
    spare = d2st.official.load(encoder, state, "task-adapter")
    assert {name.split(".")[-1] for name in spare if "adapter" not in name} == {"proj"}
    video, shot = golden["in/images"].to(dtype).requires_grad_(), about["shot"]
    support, query = (encoder(part.flatten(0, 1)) @ proj for part in (video[:, :shot], video[:, shot:]))
    text = golden["in/text"].to(dtype)[golden["in/labels"].long()]
    classes = torch.arange(about["way"])
    labels, targets = (classes.repeat_interleave(count) for count in (shot, about["n_query"]))
    head = heads.build("product", features=text.shape[1], negative="released")
    loss, logits = head.loss(heads.EncodedEpisode(support, labels, query, targets, classes, text))
    loss.backward()
    check(support, golden["out/support"], limit, "support")
    check(query, golden["out/query"], limit, "query")
    check(logits / 64, golden["out/score"], limit, "score")
    check(loss, golden["loss/ce"], limit, "loss")
    if "gi/images" in golden:
        check(video.grad, golden["gi/images"], 1e-4, "gradient of the frames")  # stored as float32
    check_gradients(encoder, goldens.weights(golden, None, "g/"), limit)


def test_a_checkpoint_whose_adapted_blocks_are_others_is_refused():
    """Every block of the release owns adapters; where they never trained their last layers are zero."""
    whole = clip_vit(32, 3, 16, (0, 1, 2), "alone")
    theirs = {"temporal": "t_adapter", "spatial": "s_adapter", "task": "task_adapter", "mlp": "MLP_adapter"}
    state = {"temporal_embedding": whole.adapters.temporal_embedding.weight}
    for name, weight in whole.adapters.state_dict().items():
        if name.startswith("blocks_"):
            block, kind = name.split(".")[0].removeprefix("blocks_").split("_")
            layer = f"{'D_fc1' if '.down.' in name else 'D_fc2'}.{name.rpartition('.')[2]}"
            trained = block != "0" or kind == "task"
            key = f"transformer.resblocks.{block}.{theirs[kind]}.{layer}"
            state[key] = torch.ones_like(weight) if trained else weight
    for adapted in ((1, 2), (2,), (0, 1, 2)):
        encoder = clip_vit(32, 3, 16, adapted, "alone")
        if adapted == (1, 2):
            assert all(".0." in key for key in d2st.official.load(encoder, state, "task-adapter"))
        else:
            said = "checkpoint trained and has no place" if adapted == (2,) else "never trained and has a place"
            with pytest.raises(d2st.D2STError, match=said):
                d2st.official.load(encoder, state, "task-adapter")


@torch.no_grad()
def test_clips_of_a_call_see_each_other_in_any_order():
    encoder, video = encoder_of(videos="together").double(), clips(batch=4).double()
    features, order = encoder(video), [2, 0, 3, 1]
    torch.testing.assert_close(encoder(video[order]), features[order], rtol=1e-9, atol=1e-12)
    changed = encoder(torch.cat([video[:3], clips(seed=1)[:1]]))
    assert all((changed[clip] - features[clip]).abs().max() > 1e-6 for clip in range(3))


@torch.no_grad()
def test_a_clip_that_is_alone_is_one_whose_call_has_no_other():
    alone, together = encoder_of(), encoder_of(videos="together")
    together.load_adapter_state_dict(alone.adapter_state_dict())
    video = clips(batch=3)
    expected = torch.cat([together(clip[None]) for clip in video])
    torch.testing.assert_close(alone(video), expected, rtol=1e-4, atol=1e-5)
    assert not alone.config.mixes_clips and together.config.mixes_clips


def test_it_starts_as_released():
    """PyTorch's own start, but for the last layers of the adapters over time, over space and beside the MLP: zero."""
    torch.manual_seed(0)
    encoder = d2st.adapt(BACKBONES["clip-vit"](), d2st.TaskAdapterConfig(), frames=FRAMES, image_size=SIZE)
    for name, parameter in encoder.adapters.state_dict().items():
        zero = name == "temporal_embedding.weight" or (".up." in name and "_task" not in name)
        fan_in = encoder.adapters["blocks_1_spatial"].down.out_features if ".up." in name else 32
        assert parameter.abs().max() <= fan_in**-0.5, name
        assert (parameter.abs().max() == 0) == zero, name
        assert zero or parameter.std() == pytest.approx((fan_in * 3) ** -0.5, rel=0.5), name


@pytest.mark.parametrize(("positions", "blocks"), [("late", 6), ((10, 11), 2)])
def test_as_many_parameters_train_as_the_release_reaches(positions, blocks):
    encoder, _ = on_meta(d2st.TaskAdapterConfig(positions=positions))
    assert encoder.parameter_count()[0] == blocks * 1_183_488 + 6_144
