"""d2st bench: figures that can be known beforehand, the whole command, the plot of evaluations, the table in docs/."""

import json
from pathlib import Path

import families
import pytest
import small
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch.utils.flop_counter import FlopCounterMode

import d2st
from d2st.commands import bench, cli
from d2st.commands.evaluate import EvalConfig, evaluate
from d2st.evaluation import cost as measure
from d2st.evaluation.cost import Seconds
from d2st.visualize import charts


def encoder_of(config, **options):
    torch.manual_seed(0)
    return d2st.adapt(VisionTransformer(**families.VIT | options), config, frames=families.FRAMES)


def test_flops_of_a_frozen_vit_are_those_of_its_matrix_products():
    tokens, width, depth, images, inputs = 17, 32, 3, 8, 3 * 8 * 8
    block = tokens * width * width * (4 + 8) + 2 * tokens * tokens * width
    expected = 2 * images * (16 * inputs * width + depth * block)
    encoder = encoder_of(d2st.NoneConfig())
    forward, step = measure.count_flops(encoder, families.clips(batch=1))
    assert forward == expected
    weights = 2 * images * (depth * tokens * width * width * 12 + 16 * inputs * width)  # for these no gradients
    whole = measure.count_flops(encoder_of(d2st.FullConfig()), families.clips(batch=1))
    assert whole[0] == expected and step < whole[1] <= step + weights
    assert 1.9 < step / forward < 2.3, "back-propagation to the input costs about another forward"


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_flops_of_grouped_convolutions_backwards(groups):
    """Each of the two gradients costs what the forward did."""
    rules = measure._flop_rules()
    convolution, x = torch.nn.Conv3d(8, 16, (3, 1, 3), stride=2, groups=groups), torch.randn(2, 8, 9, 8, 7)
    with FlopCounterMode(display=False, custom_mapping=rules) as counter:
        y = convolution(x.requires_grad_())
        forward = counter.get_total_flops()
        y.sum().backward()
    assert forward == 2 * y.numel() * 9 * 8 // groups
    assert counter.get_total_flops() == 3 * forward


def test_flops_of_attention_in_one_piece():
    """Two products forwards; backwards the weights once more and four gradients, whatever torch's own counter knows."""
    batch, heads, queries, keys, width = 2, 3, 5, 7, 8
    q, k, v = (torch.randn(batch, heads, n, width, requires_grad=True) for n in (queries, keys, keys))
    product = 2 * batch * heads * queries * keys * width
    with FlopCounterMode(display=False, custom_mapping=measure._flop_rules()) as counter:
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert counter.get_total_flops() == 2 * product
        y.sum().backward()
    assert counter.get_total_flops() == (2 + 5) * product


@pytest.mark.parametrize("config", [d2st.NoneConfig(), d2st.D2STConfig(), d2st.DiSTConfig(width=32)], ids=str)
def test_peak_memory_is_exact_and_of_activations(config, capfd):
    encoder, video = encoder_of(config), families.clips(batch=1)
    first = measure.peak_memory(encoder, video)
    assert first == measure.peak_memory(encoder, video)
    gradients = sum(4 * p.numel() for p in encoder.trainable_parameters()) or 4 * video.numel()
    activations = measure.peak_memory(encoder, families.clips(batch=3)) - first
    assert first > gradients and 1.5 * (first - gradients) < activations < 2.1 * first
    assert all(p.grad is None for p in encoder.parameters())
    assert capfd.readouterr().err == ""


def test_peak_memory_sees_checkpointing():
    encoder, video = encoder_of(d2st.D2STConfig(), depth=6), families.clips()
    plain = measure.peak_memory(encoder, video)
    encoder.set_grad_checkpointing()
    assert measure.peak_memory(encoder, video) < 0.6 * plain


def test_twins_share_memory_and_nothing_else():
    model = VisionTransformer(**families.VIT)
    other = measure.shared_copy(model)
    assert list(other.state_dict()) == list(model.state_dict())
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert a is not b and a.data_ptr() == b.data_ptr()
    d2st.adapt(other, d2st.NoneConfig())
    assert all(p.requires_grad for p in model.parameters())
    video = families.clips(batch=1)[0]
    assert torch.equal(model.eval()(video), other(video))


def test_times_are_medians_of_pairs():
    walls = [(1.0, 2.0), (10.0, 11.0), (2.0, 6.0)]  # frozen and adapted, on a machine that was disturbed once
    times = bench._times([(Seconds(a, a), Seconds(b, 2 * b)) for a, b in walls])
    assert times["wall"]["ratio"] == 2 and times["cpu"]["ratio"] == 4
    assert times["wall"]["seconds"] == 2 and times["wall"]["runs"] == [2, 11, 6]


def test_the_verb_measures_what_fits_and_says_why_the_rest_does_not(tmp_path, capsys):
    arguments = "--backbone test_resnet --image-size 32 --frames 4 --device cpu --repeats 2 --threads 1"
    chosen = ["--adapters", "vanilla,aim,d2st", "--adapter", "d2st", "--adapter.ratio", "0.5", "--out", str(tmp_path)]
    threads = torch.get_num_threads()
    assert cli.main(["bench", *arguments.split(), *chosen]) == 0
    assert torch.get_num_threads() == threads
    result, printed = json.loads((tmp_path / "bench.json").read_text()), capsys.readouterr().out
    rows = {row["adapter"]: row for row in result["adapters"]}
    pathways = [f"d2st pathways={name}" for name in ("spatial", "temporal", "uniform")]
    assert list(rows) == ["none", "vanilla", "d2st", *pathways, "d2st ratio=0.5"]
    (refused,) = result["refused"]
    assert refused["adapter"] == "aim" and "Take a ViT" in refused["reason"] and "aim: AIMConfig reaches" in printed
    for label, row in rows.items():
        config = d2st.adapters.SYSTEMS[label.split()[0]](**row["config"])
        backbone = timm.create_model("test_resnet", num_classes=0)
        count = d2st.adapt(backbone, config, frames=4, image_size=32).parameter_count()
        assert (row["parameters"]["trainable"], row["parameters"]["total"]) == count
        for task in ("forward", "step"):
            assert row[task]["flops"] == pytest.approx(row[task]["flops_ratio"] * rows["none"][task]["flops"])
            assert all(len(row[task][clock]["runs"]) == 2 for clock in ("wall", "cpu"))
            assert row[task]["wall"]["ratio"] > 0
        assert row["step"]["peak_bytes"] > 0
        assert f"| {label} | {count[0]:,} |" in (tmp_path / "bench.md").read_text()
    assert rows["d2st"]["forward"]["flops_ratio"] > rows["vanilla"]["forward"]["flops_ratio"] > 1
    assert result["config"]["threads"] == 1 and result["machine"]["threads"] == 1


def test_every_system_is_measured_on_a_vit(capsys):
    config = bench.BenchConfig(backbone="test_vit", image_size=32, frames=8, repeats=0, device="cpu")
    result = bench.bench(config)
    assert {row["adapter"].split()[0] for row in result["adapters"]} == set(d2st.adapters.SYSTEMS)
    assert [entry["adapter"] for entry in result["refused"]] == ["dualpath"], "8 frames fill framesets of 2x2 only"
    assert "time" not in capsys.readouterr().out
    rows = {row["adapter"]: row for row in result["adapters"]}
    assert (
        rows["lora merged"]["forward"]["flops"] == rows["none"]["forward"]["flops"] < rows["lora"]["forward"]["flops"]
    )
    assert rows["lora merged"]["parameters"]["trainable"] == 0 < rows["zeroi2v merged"]["parameters"]["trainable"]


def test_evaluations_are_drawn(small, tmp_path):
    for name, adapter in (("frozen", d2st.NoneConfig()), ("adapted", d2st.D2STConfig(ratio=0.5))):
        options = small_options(small, out=str(tmp_path / name), adapter=adapter, way=2, episodes=20)
        evaluate(EvalConfig(**options))
    panels = charts.collect([tmp_path])
    assert list(panels) == [f"test_resnet, data/test, bi-mhm, 2-way {shot}-shot" for shot in (1, 3)]
    for points in panels.values():
        adapted, frozen = sorted(points, key=lambda point: point.label)
        assert (frozen.label, frozen.parameters, adapted.label) == ("none", 0, "d2st ratio=0.5")
        assert adapted.parameters > 10_000 and 20 <= adapted.accuracy <= 100
    more = {"adapters": "vanilla", "repeats": 0, "device": "cpu", "image_size": 32}
    bench.bench(bench.BenchConfig(backbone="test_resnet", results=str(tmp_path), out=str(tmp_path / "out"), **more))
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert "![Accuracy against trained parameters" in (tmp_path / "out" / "bench.md").read_text()


def saved_evaluation(folder, adapter, accuracy, head=None, **config):
    """A file as d2st eval writes it, with a protocol."""
    folder.mkdir(parents=True)
    common = {"data": "store", "split": "a.yaml", "episodes": 10_000, "frames": 8, "test_frames": "centre", "seed": 0}
    own = {"adapter": {"name": adapter}, "out": str(folder), "device": "cpu", "workers": 3, "head": head} | config
    result = {"head": "otam" if head else "bi-mhm", "way": 5, "shot": 1, "accuracy": accuracy, "interval": 0.01}
    content = {
        "config": common | own,
        "backbone": "vit",
        "adapter": adapter,
        "trainable_parameters": 10,
        "part": "test",
    }
    (folder / "eval.json").write_text(json.dumps(content | {"clips": 300, "results": [result]}))


def test_only_results_of_one_protocol_stand_together(tmp_path):
    """Everything but the adapter and what changes no number; titles say what differs."""
    saved_evaluation(tmp_path / "1", "st", 0.7, data="/data/one/store")
    saved_evaluation(tmp_path / "2", "d2st", 0.4, data="/data/two/store")
    saved_evaluation(tmp_path / "3", "d2st", 0.5, data="/data/two/store", device="cuda", batch_size=1, workers=0)
    panels = charts.collect([tmp_path])
    title = "vit, store/test, bi-mhm, 5-way 1-shot"
    assert {name: len(points) for name, points in panels.items()} == {
        f"{title}, data /data/one/store": 1,
        f"{title}, data /data/two/store": 2,
    }
    different = dict(split="b.yaml", episodes=100, frames=16, test_frames="random", seed=1, queries=2, views=3)
    for number, (name, value) in enumerate(different.items()):
        folder = tmp_path / "more" / str(number)
        saved_evaluation(folder / "a", "st", 0.7)
        saved_evaluation(folder / "b", "d2st", 0.6, **{name: value})
        one, other = sorted(charts.collect([folder]))
        assert {one, other} >= {f"{title}, {name} {value}"} and len({one, other}) == 2
    for directions in ("both", "single"):
        saved_evaluation(tmp_path / "heads" / directions, "st", 0.5, {"name": "otam", "directions": directions})
    assert [name.rpartition(", ")[2] for name in charts.collect([tmp_path / "heads"])] == [
        "head.directions both",
        "head.directions single",
    ]
    saved_evaluation(tmp_path / "alike" / "1", "st", 0.7)
    saved_evaluation(tmp_path / "alike" / "2", "d2st", 0.6, adapter_path="runs/a/best", open_set=True)
    assert list(charts.collect([tmp_path / "alike"])) == [title], "what all share is not told"


def small_options(folder, **more):
    return small.options(folder) | {"shot": (1, 3)} | more


def test_files_that_are_no_evaluations_are_named(tmp_path):
    with pytest.raises(d2st.D2STError, match=r"no eval.json in"):
        charts.collect([tmp_path])
    (tmp_path / "eval.json").write_text('{"config": {"data": "x"}, "results": [{"way": 5}]}')
    with pytest.raises(d2st.D2STError, match=r"json. has no accuracies .*; write it again with d2st eval --out"):
        charts.collect([tmp_path])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--adapters", "d2st,prompts"], "--adapters 'prompts' is not one of none, full"),
        (["--clips", "0"], "clips=0 must be a whole number from 1"),
        (["--repeats", "-1"], "repeats=-1 must be a whole number from 0"),
        (["--threads", "0"], "threads=0 must be a whole number from 1"),
        (["--results", "runs"], "name one"),
        (["--backbone", "resnet18x"], "neither a timm model"),
        (["--adapter", str(Path(__file__).parent)], "A saved adapter is not taken here; give a system by its name"),
    ],
)
def test_refusals_are_sentences(arguments, sentence, capsys):
    assert cli.main(["bench", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "frames", "gmacs"),
    [(d2st.STConfig(places="mlp"), 8, 152), (d2st.AIMConfig(), 8, 202), (d2st.DiSTConfig(feature="video"), 16, 163)],
    ids=lambda value: getattr(value, "name", value),
)
def test_flops_are_what_the_authors_published(config, frames, gmacs):
    """Their "GFLOPs" of a view count a multiplication with its addition once."""
    assert measure.count_flops(*families.on_meta(config, frames))[0] / 2e9 == pytest.approx(gmacs, rel=0.006)


def test_the_table_in_the_docs_is_this_codes():
    """Parameters, and FLOPs forward; the rest of it belongs to a machine."""
    text = (Path(__file__).parent.parent / "docs" / "bench.md").read_text()
    assert "d2st bench --backbone vit_base_patch16_clip_quickgelu_224 --frames 8 " in text
    table = text[text.index("| adapter |") :].split("\n\n")[0]  # the others are of other machines' times
    header, _, *rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    encoders = {}
    for system in bench._systems(bench.BenchConfig()):
        if system.label != "dualpath":  # which needs 16 frames
            encoder, video = families.on_meta(system, 8)
            encoders[bench.label(encoder)] = encoder
            if encoder.mergeable:
                merged = families.on_meta(system, 8)[0].merge()
                encoders[bench.label(merged)] = merged
    assert [row[0] for row in rows] == list(encoders)
    for cells in rows:
        row = dict(zip(header, cells, strict=True))
        encoder = encoders[row["adapter"]]
        trainable, total = encoder.parameter_count()
        assert (row["tunable"], row["%"]) == (f"{trainable:,}", f"{100 * trainable / total:.2f}"), row["adapter"]
        if row["adapter"] in ("none", "d2st", "lora merged"):
            flops = measure.count_flops(encoder, video)[0]
            frozen = 281_008_963_584
            own = f"{frozen / 1e9:.3g} G" if row["adapter"] == "none" else f"{flops / frozen:.3f}×"
            assert row["forward FLOPs"] == own
