"""The shipped recipes: the commands read every one of them, and they say what the paper and the released code do."""

import csv
from pathlib import Path

import pytest
import torch
import yaml

from d2st import recipes
from d2st.adapters import D2STConfig, DSTConfig
from d2st.commands import cli
from d2st.data.benchmarks import FEW_SHOT
from d2st.heads import D2ST_MM
from d2st.training.optim import episodic_schedule

TRAINING = sorted(path.stem for path in recipes.FOLDER.glob("*-*.yaml"))
METHODS = sorted(path.stem for path in recipes.FOLDER.glob("methods/*.yaml"))
PROTOCOLS = sorted(path.stem for path in recipes.FOLDER.glob("protocols/*.yaml"))
# Table 13: base learning rate, warm-up start, training episodes, warm-up episodes, weight decay, batch size.
TABLE_13 = {
    ("ssv2-full", "resnet50"): (2e-3, 4e-4, 120_000, 12_000, 5e-4, 8),
    ("ssv2-small", "resnet50"): (2e-3, 4e-4, 40_000, 4_000, 5e-4, 8),
    ("kinetics100", "resnet50"): (2e-3, 4e-4, 10_000, 1_000, 5e-4, 8),
    ("hmdb51", "resnet50"): (2e-3, 4e-4, 8_000, 800, 5e-4, 8),
    ("ucf101", "resnet50"): (2e-3, 4e-4, 8_000, 800, 5e-4, 8),
    ("ssv2-full", "vit-b16"): (1e-3, 2e-4, 120_000, 12_000, 5e-4, 8),
    ("ssv2-small", "vit-b16"): (1e-3, 2e-4, 40_000, 4_000, 5e-4, 8),
    ("kinetics100", "vit-b16"): (5e-4, 1e-4, 3_000, 300, 5e-4, 8),
    ("hmdb51", "vit-b16"): (1e-3, 2e-4, 3_000, 300, 5e-4, 8),
    ("ucf101", "vit-b16"): (5e-4, 1e-4, 2_400, 240, 5e-4, 8),
}
AUXILIARY = {"resnet50": (1.0, 0.5, 1.5, 2.0, 1.5), "vit-b16": (2.0, 0.5, 0.0, 2.5, 0.0)}
GOLDEN = {"ssv2-small": "ssv2_small", "kinetics100": "kinetics100", "hmdb51": "hmdb51", "ucf101": "ucf101"}


@pytest.fixture
def read(monkeypatch):
    """Configs of a command from recipes, as the command line reads them."""
    seen = []
    monkeypatch.setattr("d2st.commands.train.train", lambda config: seen.append(config) or {})
    monkeypatch.setattr("d2st.commands.evaluate.evaluate", lambda config: seen.append(config) or {})

    def call(verb, *names, **flags):
        more = [text for key, value in flags.items() for text in (f"--{key}", value)]
        paths = [text for name in names for text in ("--config", f"recipes/{name}.yaml")]
        assert cli.main([verb, "--data", "clips", *paths, *more]) == 0
        return seen.pop()

    return call


def test_every_data_set_has_both_backbones_in_both_variants():
    assert set(TRAINING) == {f"{d}-{b}-{v}" for d, b in TABLE_13 for v in ("paper", "released")}
    assert {dataset for dataset, _ in TABLE_13} == set(FEW_SHOT)


@pytest.mark.parametrize("name", [*TRAINING, *(f"methods/{method}" for method in METHODS), "mini"])
def test_train_reads_every_recipe(read, name):
    given = yaml.safe_load((recipes.FOLDER / f"{name}.yaml").read_text())
    config = read("train", name)
    for key, value in given.items():
        if key == "adapter":
            assert config.adapter.name == value["name"]
        elif key == "head":
            expected = value if isinstance(value, dict) else {"name": value}
            assert {"name": config.head.name, **config.head.options} == expected
        else:
            assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value), key


@pytest.mark.parametrize("name", PROTOCOLS)
def test_eval_reads_every_protocol(read, name):
    config = read("eval", f"protocols/{name}")
    assert config.episodes == 10_000 and config.transforms == "released"
    assert (config.test_frames == "random") == (name == "released")


@pytest.mark.parametrize(("dataset", "backbone"), TABLE_13)
def test_paper_recipes_are_table_13(read, dataset, backbone):
    config = read("train", f"{dataset}-{backbone}-paper", "methods/d2st-paper")
    lr, start, episodes, warmup, decay, batch = TABLE_13[dataset, backbone]
    assert (config.lr, config.episodes, config.weight_decay) == (lr, episodes, decay)
    assert config.episodes_per_step == batch
    assert config.lr * config.warmup_from == pytest.approx(start) and config.warmup * episodes == pytest.approx(warmup)
    assert (config.frames, config.adapter.ratio, config.class_loss) == (8, 0.25, 0)
    assert config.flip != dataset.startswith("ssv2") and config.augment == "all" and config.sampling == "uniform"
    assert config.adapter == D2STConfig(
        activations=("fusion",),
        fusion="sum",
        offset_norm=False,
        temporal_embedding=False,
        train_class_token=False,
        train_final_norm=False,
    )


@pytest.mark.parametrize(("dataset", "backbone"), TABLE_13)
def test_released_recipes_do_what_the_code_does(read, dataset, backbone):
    config = read("train", f"{dataset}-{backbone}-released", "methods/d2st-released")
    assert config.episodes == TABLE_13[dataset, backbone][2] // 2, "its two processes draw the same episodes"
    assert (config.weight_decay, config.gradient_scale, config.shot) == (1e-3, 4, 1)
    assert config.class_loss == dict(zip(FEW_SHOT, AUXILIARY[backbone], strict=True))[dataset]
    assert config.flip and config.augment == "queries" and config.adapter == D2STConfig()
    assert config.sampling == ("rate35" if dataset == "kinetics100" else "rate50")


@pytest.mark.parametrize("dataset", GOLDEN)
def test_released_recipes_have_the_released_learning_rates(read, dataset):
    config = read("train", f"{dataset}-vit-b16-released")
    rate = episodic_schedule(config, config.episodes)
    with (Path(__file__).parent / "golden" / f"lr_{GOLDEN[dataset]}_ViT.csv").open() as file:
        for row in csv.DictReader(file):
            assert rate(int(row["iteration"])) == pytest.approx(float(row["lr"]), rel=1e-9), row


def test_no_decay_names_what_the_released_code_spares():
    """On a ViT its rule meets the norms of the offset networks alone, on a ResNet all norms."""
    import d2st

    for backbone, dataset in (("vit_tiny_patch16_224", "vit-b16"), ("resnet18", "resnet50")):
        encoder = d2st.adapt(backbone, pretrained=False, image_size=64)
        words = yaml.safe_load((recipes.FOLDER / f"ucf101-{dataset}-released.yaml").read_text())["no_decay"]
        trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
        spared = [name for name in trained if any(word in name for word in words)]
        norms = [name for name in trained if "norm" in name]
        assert spared and spared == ([n for n in norms if "points" in n] if dataset == "vit-b16" else norms)
    encoder = d2st.adapt("resnet18", DSTConfig(), pretrained=False, image_size=64)
    words = yaml.safe_load((recipes.FOLDER / "methods" / "dst-released.yaml").read_text())["no_decay"]
    batch_norms = {
        id(p) for m in encoder.adapters.modules() if isinstance(m, torch.nn.BatchNorm3d) for p in m.parameters()
    }
    spared = {id(p) for name, p in encoder.named_parameters() if p.requires_grad and any(w in name for w in words)}
    assert spared == batch_norms


def test_the_multimodal_recipes_are_the_heads_own_choice(read):
    for name in ("d2st-mm", "d2st-mm-ssv2", "d2st-mm-hmdb51"):
        config = read("train", "ucf101-vit-b16-released", f"methods/{name}")
        assert {k: v for k, v in config.head.options.items() if k != "text_loss"} == D2ST_MM


def test_a_file_of_ones_own_comes_first(tmp_path, monkeypatch, read):
    monkeypatch.chdir(tmp_path)
    assert read("train", "ucf101-resnet50-paper").lr == 0.002
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "ucf101-resnet50-paper.yaml").write_text("lr: 0.5")
    assert read("train", "ucf101-resnet50-paper").lr == 0.5
    assert cli.main(["train", "--data", "clips", "--config", "recipes/nothing.yaml"]) == 2
