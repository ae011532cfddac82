"""D²ST against numbers made by running the authors' code: outputs and gradients, float64 and float32."""

import re
import zlib
from functools import partial

import goldens
import numpy as np
import pytest
import timm
import torch
from timm.layers import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

import d2st
from d2st.adapters.d2st import D2STAdapter
from d2st.layers.deformable_attention import AnisotropicAttention, window

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
PRECISIONS = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)

# The adapters of the release have hard-coded windows; as (volume, density) that our rule turns into the same windows.
RESNET_WINDOWS = {
    1: dict(volume=(8, 56, 56), densities={"spatial": (2, 8, 8), "temporal": (8, 4, 4)}, groups=1),
    2: dict(volume=(8, 28, 28), densities={"spatial": (2, 4, 4), "temporal": (8, 2, 2)}, groups=2),
    3: dict(volume=(8, 14, 14), densities={"spatial": (2, 4, 4), "temporal": (8, 2, 2)}, groups=4),
    4: dict(volume=(8, 7, 7), densities={"spatial": (2, 2, 2), "temporal": (8, 1, 1)}, groups=8),
}
VIT_WINDOWS = dict(volume=(8, 14, 14), densities={"spatial": (2, 4, 4), "temporal": (8, 2, 2)}, groups=4)


def golden_gradients(tensors, dtype):
    """Gradients in the authors' names: of the float32 run for float32, where there was one, else of the float64 run."""
    return (dtype == torch.float32 and goldens.weights(tensors, None, "g32/")) or goldens.weights(tensors, None, "g/")


def check_gradients(parameters, theirs, dtype, tolerance=0.0):
    """Every parameter's gradient against the golden's, relative to its largest entry."""
    scale = max(map(goldens.largest, theirs.values()))
    assert parameters.keys() <= theirs.keys()
    for name, parameter in parameters.items():
        expected = theirs[name].reshape(parameter.shape)
        error = goldens.largest_difference(parameter.grad, expected)
        # The key's bias cancels in the softmax: its gradient is rounding, compared on the scale of the others.
        size = scale if name.endswith("key.bias") else goldens.largest(expected)
        limit = max(TOLERANCE[dtype], stored_precision(expected), tolerance) * size
        assert error <= limit, f"{name}: {error:.2e} > {limit:.2e}"


def stored_precision(golden):
    """Some float64 results were stored rounded to float32."""
    return torch.finfo(torch.float32).eps if golden.dtype == torch.float32 else 0.0


@PRECISIONS
@pytest.mark.parametrize("name", goldens.find("mini_resnet_d2st_*") + goldens.find("*vit_d2st_w64"))
def test_adapter(name, dtype):
    check_adapter(name, dtype, "cpu")


def check_adapter(name, dtype, device):
    """An adapter on a device against the golden of a name: output, and gradients of input and parameters."""
    meta, tensors = goldens.read(name)
    vit, frames = "grid" in meta["config"], meta["config"]["T"]
    channels = tensors["x"].shape[-1 if vit else 1]
    width = int(channels * meta["config"]["ADAPTER_SCALE"])
    windows = VIT_WINDOWS if vit else RESNET_WINDOWS[int(name[-1])]
    windows = windows | {"groups": windows["groups"] if vit else width // 4, "heads": None}
    windows["heads"] = windows["groups"]
    activations = ("down", "fusion", "up") if vit else ("fusion",)
    adapter = D2STAdapter(channels, width, **windows, activations=activations).to(dtype)
    left = d2st.official.load(adapter, goldens.weights(tensors, dtype))
    assert left == {}
    adapter.to(device)
    x = tensors["x"].to(dtype).to(device).requires_grad_()
    if vit:  # (N, B*T, C)
        grid = (meta["config"]["grid"],) * 2
        tokens = x.transpose(0, 1).unflatten(0, (-1, frames))
        y = adapter(tokens, grid).flatten(0, 1).transpose(0, 1)
    else:  # (B*T, C, H, W)
        grid = tuple(x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2).unflatten(0, (-1, frames))
        y = adapter(tokens, grid).flatten(0, 1).transpose(1, 2).unflatten(2, grid)
    (y * tensors["c"].to(dtype).to(device)).sum().backward()
    limit = max(TOLERANCE[dtype], stored_precision(tensors["y"]))
    suffix = "32" if dtype == torch.float32 and "y32" in tensors else ""
    assert goldens.relative_error(y, tensors[f"y{suffix}"]) <= limit
    assert goldens.relative_error(x.grad, tensors[f"gx{suffix}"]) <= limit
    gradients = d2st.official.translate(adapter, golden_gradients(tensors, dtype))
    check_gradients(dict(adapter.named_parameters()), gradients, dtype)


@PRECISIONS
@pytest.mark.parametrize("name", goldens.find("density_*"))
def test_attention_at_other_densities(name, dtype):
    meta, tensors = goldens.read(name)
    config, x = meta["config"], tensors["x"].to(dtype).requires_grad_()
    vit = "grid" in config
    grid = (config["grid"],) * 2 if vit else (config["H"],) * 2
    volume, density = (config["T"], *grid), tuple(config["density"])
    assert [window(n, p)[0] for n, p in zip(volume, density, strict=True)] == config["kernel"]
    assert [window(n, p)[1] for n, p in zip(volume, density, strict=True)] == config["stride"]
    attention = AnisotropicAttention(config["dim"], volume, density, config["groups"], config["heads"]).to(dtype)
    names = {"conv_offset.0": "points.conv", "conv_offset.1.norm": "points.norm", "conv_offset.3": "points.project"}
    names |= {"proj_q": "query", "proj_k": "key", "proj_v": "value", "proj_out": "output"}

    def ours(state):
        own = attention.state_dict()
        state = {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}
        return {key: value.reshape(own[key].shape) for key, value in state.items()}

    attention.load_state_dict(ours(goldens.weights(tensors, dtype)))
    if vit:
        y = attention(x.transpose(0, 1).unsqueeze(0), grid).squeeze(0).transpose(0, 1)
    else:
        y = attention(x.permute(0, 2, 3, 4, 1).flatten(2, 3), grid)
        y = y.unflatten(2, grid).permute(0, 4, 1, 2, 3)
    (y * tensors["c"].to(dtype)).sum().backward()
    suffix = "32" if dtype == torch.float32 and "y32" in tensors else ""
    assert goldens.relative_error(y, tensors[f"y{suffix}"]) <= TOLERANCE[dtype]
    assert goldens.relative_error(x.grad, tensors[f"gx{suffix}"]) <= TOLERANCE[dtype]
    check_gradients(dict(attention.named_parameters()), ours(golden_gradients(tensors, dtype)), dtype)


@PRECISIONS
@pytest.mark.parametrize("name", goldens.find("*vit_clip_*") + goldens.find("resnet18_full_*"))
def test_encoder_distances_logits_and_loss(name, dtype):
    meta, tensors = goldens.read(name)
    encoder, state = reference_encoder(meta, tensors, dtype)
    classifier = nn.Linear(encoder.num_features, meta["num_class"]).to(dtype)
    left = d2st.official.load(encoder, state)
    framed = d2st.official.load(encoder, {f"model.{key}": value for key, value in state.items()})  # as its runs save it
    assert framed.keys() == {f"model.{key}" for key in left}
    classifier.load_state_dict({key.removeprefix("classification_layer."): value for key, value in left.items()})

    support_labels, query_labels = tensors["support_labels"].long(), tensors["query_labels"].long()
    videos = torch.cat([tensors["support_u8"], tensors["query_u8"]])
    features = encoder(normalize(videos, meta["TRAIN_CROP_SIZE"], dtype))  # (S + Q, T, D)
    support, query = features.split([len(support_labels), len(query_labels)])
    logits = d2st.heads.build("bi-mhm")(support, support_labels, query)
    class_logits = classifier(features.mean(1))
    class_labels = torch.cat([tensors["real_support_labels"], tensors["real_target_labels"]]).long()
    ce, ce_class = F.cross_entropy(logits, query_labels), F.cross_entropy(class_logits, class_labels)
    loss = ce + meta["classification_value"] * ce_class
    otam_logits = d2st.heads.build("otam")(support, support_labels, query)
    ce_otam = F.cross_entropy(otam_logits, query_labels)
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    otam_gradients = torch.autograd.grad(ce_otam, list(trained.values()), retain_graph=True)
    loss.backward()

    suffix = "32" if dtype == torch.float32 else ""
    ours = {"support_features": support, "query_features": query, "logits": logits, "class_logits": class_logits}
    ours |= {"otam_logits": otam_logits, "ce_otam": ce_otam}
    ours |= {"ce": ce, "ce_class": ce_class, "loss": loss, "dist": frame_distances(support, support_labels, query)}
    for key, value in ours.items():
        error = goldens.relative_error(value, tensors[key + suffix])
        assert error <= TOLERANCE[dtype], f"{key}: {error:.2e}"

    # The reference's own float32 gradients of ResNet-18 are 1.2e-3 away from its float64 ones (json, stats).
    rough = 3e-3 if dtype == torch.float32 and name.startswith("resnet18") else 0.0
    theirs, linear = golden_gradients(tensors, dtype), dict(classifier.named_parameters())
    check_gradients({f"classification_layer.{k}": p for k, p in linear.items()}, theirs, dtype, rough)
    check_gradients(trained, d2st.official.translate(encoder, theirs), dtype, rough)
    if dtype == torch.float64 and (theirs := goldens.weights(tensors, None, "go/")):
        for parameter, gradient in zip(trained.values(), otam_gradients, strict=True):
            parameter.grad = gradient
        check_gradients(trained, d2st.official.translate(encoder, theirs), dtype)


def frame_distances(support, labels, query):
    """(Q, way, T, T) cosine distances between prototypes and queries, as the golden lays them out."""
    prototypes = torch.stack([support[labels == label].mean(0) for label in labels.unique()])
    return 1 - torch.einsum("cid,qjd->qcij", F.normalize(prototypes, dim=-1), F.normalize(query, dim=-1))


def normalize(videos, size, dtype):
    """The goldens' input rule: pixels repeated up to ``size``, CLIP mean and std."""
    videos = videos.repeat_interleave(size // videos.shape[-1], -1).repeat_interleave(size // videos.shape[-1], -2)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=dtype).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=dtype).view(3, 1, 1)
    return (videos.to(dtype) / 255 - mean) / std


def reference_encoder(meta, tensors, dtype):
    """Our encoder of the golden's architecture, and its weights in the authors' layout."""
    if "resnet18" in meta["case"]:
        backbone = timm.create_model("resnet18", num_classes=0)
        encoder = d2st.adapt(backbone, d2st.D2STConfig(ratio=meta["ADAPTER_SCALE"])).to(dtype)
        return encoder, weights_by_rule(encoder, tensors, dtype)
    size, patch = meta["TRAIN_CROP_SIZE"], meta["PATCH_SIZE"]
    backbone = VisionTransformer(
        img_size=size, patch_size=patch, embed_dim=meta["WIDTH"], depth=meta["LAYERS"], num_heads=meta["HEADS"],
        num_classes=0, pre_norm=True, act_layer=QuickGELU, norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip
    config = d2st.D2STConfig(ratio=meta["ADAPTER_SCALE"], reference_map=(8, 14, 14), spatial=(2, 4, 4))
    return d2st.adapt(backbone, config, frames=meta["T"]).to(dtype), goldens.weights(tensors, dtype)


def weights_by_rule(encoder, tensors, dtype):
    """The golden's weights: drawn per key of the authors' state dict, from a generator seeded with its name."""
    shapes = {key.removeprefix("g/"): value.shape for key, value in tensors.items() if key.startswith("g/")}
    for name, value in encoder.backbone.state_dict().items():
        stage = re.sub("^layer1", "stage1.4", re.sub("^bn1", "stage1.1", re.sub("^conv1", "stage1.0", name)))
        shapes[re.sub("^layer", "stage", stage)] = value.shape
    state = {}
    for key, shape in shapes.items():
        draw = np.random.RandomState(zlib.crc32(key.encode()))
        if key.endswith("num_batches_tracked"):
            value = np.zeros(())
        elif key.endswith("running_var"):
            value = draw.uniform(0.5, 1.5, shape)
        elif key.endswith("running_mean"):
            value = 0.2 * draw.standard_normal(shape)
        elif key.endswith("bias"):
            value = 0.1 * draw.standard_normal(shape)
        elif len(shape) == 1:
            value = 1 + 0.2 * draw.standard_normal(shape)
        else:
            value = draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(value, np.float32)).to(dtype)
    return state
