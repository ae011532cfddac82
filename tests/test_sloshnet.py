"""SloshNet against the authors' numbers; of their long-term module, which mixes the clips of a call, a copy is here."""

import goldens
import heads_small
import numpy as np
import pytest
import small as small_data
import torch
from torch.nn import functional as F

import d2st
from d2st import D2STError, heads
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.commands.train import TrainConfig, train
from d2st.data import sampling
from d2st.data.datasets import open_dataset
from d2st.features.encode import encode_clips
from d2st.heads import HeadSpec

SIDES = ("support", "query")
CODES = {"modulation": "spatial_modulation.spatial_modulation", "short": "cmm", "long": "cstm.resblocks.0"}


def released(long):
    """The release's long-term module, with our weights: all clips of a call attend, and a view scrambles."""

    def forward(maps):
        count, frames, features, height, width = maps.shape[-5:]
        x = maps.movedim((-4, -3), (-2, -1)).flatten(-5, -3)  # (N * H * W, T, D)
        x = long.block(x.transpose(-3, -2)).transpose(-3, -2).contiguous()
        return x.view(count, height, width, features, frames).movedim((-1, -2), (-4, -3))

    return forward


def name_of(key: str) -> str:
    """The release's name of a parameter of ours, but for TRX's."""
    if key.startswith("modulation."):
        _, stage, _, step, part, last = key.split(".")
        return f"{CODES['modulation']}.{stage}.{step}.{'bn2' if part == '1' else 'conv2'}.{last}"
    whole = {"cell.states": "beta1", "terms": "gamma1"}
    parts = {
        "cell.operations.": "darts_model.alpha_normal.",
        "short.query.": "cmm.qconv.",
        "short.key.": "cmm.kconv.",
        "short.qkv.": "cmm.qkv.",
        "short.": "cmm.mlp.",
        "long.norm1.": "cstm.resblocks.0.ln_1.",
        "long.norm2.": "cstm.resblocks.0.ln_2.",
        "long.qkv.": "cstm.resblocks.0.attn.in_proj_",
        "long.output.": "cstm.resblocks.0.attn.out_proj.",
        "long.fc1.": "cstm.resblocks.0.mlp.c_fc.",
        "long.fc2.": "cstm.resblocks.0.mlp.c_proj.",
    }
    start = next((start for start in parts if key.startswith(start)), None)
    return whole.get(key) or parts[start] + key.removeprefix(start)


def from_golden(case, dtype, monkeypatch):
    """The head with the golden's weights, its position code, and the released long-term module."""
    about, golden = goldens.read(case)
    args, code = about["args"], golden["w/transformers.0.pe.pe"][0].to(dtype)
    monkeypatch.setattr("d2st.heads.trx.faint_positions", lambda count, like: code[:count])
    options = {"width": args["trans_linear_out_dim"], "cardinalities": tuple(args["temp_set"]), "dropout": 0.0}
    head = heads.build("sloshnet", stage_channels=tuple(args["stage_dims"]), **options).to(dtype)
    own = goldens.weights(golden, dtype)
    rows = {key: value for key, value in own.items() if key.startswith("transformers.")}
    d2st.official.load(head.trx, rows, system="trx")
    theirs = {key: own[name_of(key)] for key in head.state_dict() if not key.startswith("trx.")}
    head.load_state_dict({key: value.view_as(head.state_dict()[key]) for key, value in theirs.items()}, strict=False)
    monkeypatch.setattr(head.long, "forward", released(head.long))
    return head.train(case.endswith("_train")), golden, args["seq_len"]


def of_golden(golden, dtype, frames):
    """Of support and queries, the maps of four stages (S, T, C_i, H_i, W_i), which take gradients."""
    for side in SIDES:
        stages = [golden[f"in/{side}_stage{number}"].to(dtype, copy=True) for number in range(1, 5)]
        yield [stage.unflatten(0, (-1, frames)).requires_grad_() for stage in stages]


@pytest.mark.parametrize("case", goldens.find("sloshnet_*"))
@pytest.mark.parametrize(("dtype", "run", "tolerance"), [(torch.float32, "", 1e-4), (torch.float64, "64", 1e-9)])
def test_logits_and_gradients_are_the_authors(case, dtype, run, tolerance, monkeypatch):
    head, golden, frames = from_golden(case, dtype, monkeypatch)
    sides = list(of_golden(golden, dtype, frames))
    support, query = (head.clips_of(None, stages) for stages in sides)
    with torch.no_grad():
        maps = head.fuse(query)
        for ours, name in ((maps, "fused"), (head.short(maps), "short"), (head.long(maps), "long")):
            assert goldens.relative_error(ours, golden[f"out/{name}_query"]) <= 1e-5, name
        head.load_state_dict(from_golden(case, dtype, monkeypatch)[0].state_dict())  # statistics as they were
    logits = head(support, golden["in/support_labels"], query)
    assert goldens.relative_error(logits, golden[f"out{run}/logits"]) <= tolerance
    loss = F.cross_entropy(logits, golden["in/query_labels"], reduction="sum")
    assert goldens.relative_error(loss, golden[f"loss{run}/ce_sum"]) <= tolerance
    (loss + (logits * golden["in/probe_logits"]).sum()).backward()
    for side, stages in zip(SIDES, sides, strict=True):
        for number in (3, 4):
            theirs = golden[f"gi/{side}_stage{number}"]
            assert goldens.relative_error(stages[number - 1].grad.flatten(0, 1), theirs) <= 1e-4, (side, number)
    for key, parameter in head.named_parameters():
        if not key.startswith("trx."):
            theirs = golden[f"g/{name_of(key)}"]
            assert goldens.largest_difference(parameter.grad, theirs) <= 1e-4 * max(goldens.largest(theirs), 1e-3), key


def test_frames_attend_within_their_clip_and_place():
    head = heads_small.build("sloshnet").double()
    features = head.stage_channels[-1]
    maps = torch.randn(2, 3, features, 2, 2, dtype=torch.float64)
    found = head.long(maps)
    assert found.shape == maps.shape
    for clip in range(2):
        for row in range(2):
            for column in range(2):
                alone = head.long.block(maps[clip, :, :, row, column])
                torch.testing.assert_close(found[clip, :, :, row, column], alone)


def test_stages_are_packed_without_loss():
    head = heads_small.build("sloshnet")
    shapes = list(zip(head.stage_channels, head.stage_scales, strict=True))
    stages = [torch.randn(2, 3, c, 2 * s, 2 * s) for c, s in shapes]
    packed, sizes = head.clips_of(None, stages), [c * s * s for c, s in shapes]
    assert packed.shape == (2, 3, sum(sizes), 2, 2)
    parts = packed.split(sizes, dim=-3)
    for part, stage, scale in zip(parts, stages, head.stage_scales, strict=True):
        assert torch.equal(F.pixel_shuffle(part, scale), stage)
    with pytest.raises(D2STError, match="was built for maps of"):
        head.clips_of(None, [*stages[:3], torch.randn(2, 3, head.stage_channels[3], 3, 3)])


@pytest.mark.parametrize(
    ("backbone", "size", "adapter"),
    [("d2st_stills", 64, d2st.D2STConfig(ratio=0.5)), ("test_vit", 160, d2st.D2STConfig()), ("resnet18", 64, "st")],
)
def test_stages_come_from_encoders_with_their_adapters(backbone, size, adapter):
    torch.manual_seed(0)
    encoder = d2st.adapt(backbone, adapter, frames=4, image_size=size, pretrained=False).eval()
    for parameter in encoder.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    video = torch.randn(2, 4, 3, size, size)
    with torch.no_grad():
        features, stages = encoder.features_and_stages(video)
        torch.testing.assert_close(features, encoder(video))
        if backbone == "d2st_stills":
            torch.testing.assert_close(stages[-1], encoder.features_and_maps(video)[1])
        head = d2st.create_head("sloshnet", encoder, width=16)
        rows = head.embed(head.clips_of(features, stages))
    assert head.stage_channels == tuple(stage.shape[2] for stage in stages) and rows.isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stage_scales": (8, 4, 3, 1)}, "fuses four stages"),
        ({"stage_channels": (8, 16), "stage_scales": (2, 1)}, "fuses four stages"),
        ({"stage_channels": (4, 8, 16, 24)}, "no multiple of 16"),
    ],
)
def test_stages_that_do_not_go_together_are_refused(options, words):
    with pytest.raises(D2STError, match=words):
        heads.build("sloshnet", **options)


def test_encoders_without_four_stages_are_refused():
    encoder = d2st.adapt("test_vit", d2st.LSNConfig(width=32), frames=4, image_size=160, pretrained=False)
    with pytest.raises(D2STError, match="has no four stages"):
        d2st.create_head("sloshnet", encoder)
    with pytest.raises(D2STError, match="has no four stages"):
        encoder.features_and_stages(torch.randn(1, 4, 3, 160, 160))


def test_it_trains_and_answers_with_an_adapter(small, tmp_path):
    asked = small_data.options(small, out=str(tmp_path / "run"), head=HeadSpec("sloshnet", {"width": 8}))
    asked |= {"adapter": d2st.D2STConfig(ratio=0.5), "way": 2, "queries": 1, "episodes": 4, "episodes_per_step": 2}
    with pytest.raises(D2STError, match="takes maps of four stages, of which prefix_crops keeps one"):
        train(TrainConfig(**asked | {"prefix_crops": 1, "adapter": d2st.STConfig(positions=(2, 3))}))
    train(TrainConfig(**asked | {"out": str(tmp_path / "trained"), "validation_episodes": 10}))
    found = small_data.options(small, adapter_path=str(tmp_path / "trained" / "best"), out=str(tmp_path / "test"))
    found = {key: value for key, value in found.items() if key not in ("backbone", "image_size", "frames")}
    result = evaluate(EvalConfig(**found, way=2, shot=(1,), queries=1, episodes=20))
    assert [row["head"] for row in result["results"]] == ["sloshnet"]
    again = d2st.FewShotClassifier.from_pretrained(tmp_path / "trained" / "best", weights=small / "weights.safetensors")
    clips = {name: [small / "data" / name / "0.mp4"] for name in ("pink", "teal")}
    assert again.fit(clips).predict(small / "data" / "pink" / "1.mp4").label in clips


def test_heads_that_look_at_stages_maps_and_features_share_an_encoding(small):
    encoder = d2st.adapt("test_resnet", "d2st", frames=4, image_size=32, pretrained=False).eval()
    torch.manual_seed(0)
    alone = [d2st.create_head(name, encoder, width=8) for name in ("sloshnet", "ts-dcm")] + [heads.build("otam")]
    clips = open_dataset(small / "data", small / "split.yaml", "test")
    read = clips, sampling.build("uniform", 4), encoder.transform()
    together = encode_clips(encoder, *read, heads=alone)
    for head in alone:
        found = encode_clips(encoder, *read, heads=[head])
        np.testing.assert_allclose(together.embedded(head), found.embedded(head), rtol=1e-5, atol=1e-5)
    assert list(together.tokens) == ["sloshnet", "ts-dcm"]
