"""Full-shot recipes: the commands read them, and they say what the authors' code does."""

from pathlib import Path

import pytest
import yaml
from torchvision.transforms import v2

import d2st
from d2st import recipes
from d2st.adapters import SYSTEMS
from d2st.commands import cli
from d2st.data.transforms import full_shot_transform
from d2st.training.duration import Duration

FOLDER = recipes.FOLDER / "full-shot"
TRAINING = sorted(path.stem for path in FOLDER.glob("*.yaml"))
PROTOCOLS = sorted(path.stem for path in FOLDER.glob("protocols/*.yaml"))
CLIPS = {"kinetics400": 240_000, "ssv2": 168_913}
# Frames, epochs, warm-up, clips a step, learning rate, weight decay.
PUBLISHED = {
    "kinetics400-st": (8, 12, 2, 192, 7.5e-4, 1e-2),
    "ssv2-st": (8, 50, 2, 256, 1e-3, 1e-2),
    "kinetics400-aim": (8, 30, 2.5, 64, 3e-4, 0.05),
    "ssv2-aim": (8, 50, 2.5, 64, 3e-4, 0.05),
    "kinetics400-dualpath": (16, 50, 3, 86, 1.68e-4, 0.05),
    "ssv2-dualpath": (16, 50, 3, 86, 1.68e-4, 0.05),
    "kinetics400-zeroi2v": (8, 40, 2.5, 64, 3e-4, 0.05),
    "ssv2-zeroi2v": (16, 50, 2.5, 64, 3e-4, 0.05),
    "kinetics400-dist": (16, 36, 6, 256, 3.2e-4, 1e-4),
    "ssv2-dist": (16, 36, 6, 256, 3.2e-4, 1e-4),
    "kinetics400-side4video": (8, 30, 4, 256, 1e-3, 0.15),
    "ssv2-side4video": (8, 60, 8, 256, 1e-3, 0.15),  # 30 and 4 in which each clip comes twice
    "ssv2-dia": (16, 45, 2, 8, 2.5e-3, 0.05),
}


@pytest.fixture
def read(monkeypatch):
    """The config that a command gets from a recipe."""
    seen = []
    for command in ("train_classifier.train_full_shot", "evaluate_classifier.evaluate_full_shot"):
        monkeypatch.setattr(f"d2st.commands.{command}", lambda config: seen.append(config) or {})

    def call(verb, name):
        assert cli.main([verb, "--data", "clips", "--config", f"recipes/full-shot/{name}.yaml"]) == 0
        return seen.pop()

    return call


def given(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", TRAINING)
def test_train_reads_every_recipe(read, name):
    config = read("train", name)
    for key, value in given(name).items():
        if key == "adapter":
            fields = {field: getattr(config.adapter, field) for field in value}
            assert config.adapter == SYSTEMS[value["name"]](**{k: v for k, v in value.items() if k != "name"}), fields
        elif key == "text":
            assert (config.text.names, config.text.templates) == ("raw", "{}")
        else:
            assert getattr(config, key) == (tuple(value) if isinstance(value, list) else value), key
    dataset, method = name.split("-")
    assert config.split == dataset and config.adapter.name == method
    assert config.flip == (dataset == "kinetics400"), "left and right matter on Something-Something"
    steps = CLIPS[dataset] * config.epochs / config.clips_per_step
    duration = Duration.of_epochs(config, CLIPS[dataset], config.warmup_epochs, processes=1)
    assert duration.total / duration.per_step == pytest.approx(steps, abs=1) and duration.validate_every == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipes_have_the_published_numbers(read, name):
    config = read("train", name)
    found = config.frames, config.epochs, config.warmup_epochs, config.clips_per_step, config.lr, config.weight_decay
    assert found == pytest.approx(PUBLISHED[name])


def test_aim_draws_as_strongly_as_imgaug(read):
    """n=4 of which all are done, m=7 of 30: here each draw is done half of the time."""
    config = read("train", "ssv2-aim")
    chosen = {"rand_augment": config.rand_augment, "magnitude": config.magnitude}
    steps = full_shot_transform(32, (0.5,) * 3, (0.5,) * 3, flip=False, **chosen).pixels.transforms
    draws = [step for step in steps if isinstance(step, v2.RandomApply)]
    assert sum(step.p for step in draws) == 4
    assert {(step.transforms[0].magnitude, step.transforms[0].num_magnitude_bins) for step in draws} == {(7, 31)}


def test_d2st_has_the_settings_of_st_adapter():
    for dataset in CLIPS:
        st, d2st_ = given(f"{dataset}-st"), given(f"{dataset}-d2st")
        assert {k: v for k, v in st.items() if k != "adapter"} == {k: v for k, v in d2st_.items() if k != "adapter"}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_eval_reads_every_protocol(read, name):
    config = read("eval", f"protocols/{name}")
    three_views = name.startswith("kinetics400") or name.endswith("dist")
    assert (config.views, config.crops) == ((3, 1) if three_views else (1, 3))
    assert config.average == ("logits" if "dualpath" in name else "probabilities") and config.part == "val"


@pytest.mark.parametrize("method", ["st", "aim", "dualpath", "dist", "zeroi2v", "side4video", "d2st"])
def test_weight_decay_spares_what_the_authors_spare(method):
    """Spare what each of the authors spares.

    ST-Adapter and D2ST: biases; AIM: norms; ZeroI2V: its embedding too; DUALPATH, Side4Video: none; DiST: all but
    matrices.
    """
    from timm.models.vision_transformer import VisionTransformer

    recipe = given(f"ssv2-{method}")
    config = SYSTEMS[method](**{k: v for k, v in recipe["adapter"].items() if k not in ("name", "width", "projection")})
    backbone = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=4, num_classes=0)
    encoder = d2st.adapt(backbone, config, frames=recipe["frames"])
    trained = {name: p for name, p in encoder.named_parameters() if p.requires_grad}
    spared = {name for name in trained if any(word in name for word in recipe["no_decay"])}
    tokens = ("token", "positions")
    expected = {
        "st": {name for name in trained if name.endswith("bias")},
        "d2st": {name for name in trained if name.endswith("bias")},
        "aim": {"backbone.norm.weight", "backbone.norm.bias"},
        "zeroi2v": {"adapters.temporal_embedding.weight", "backbone.norm.weight", "backbone.norm.bias"},
        "dualpath": set(),
        "side4video": set(),
        "dist": {n for n, p in trained.items() if p.ndim == 1 or any(word in n.rsplit(".", 1)[-1] for word in tokens)},
    }
    assert spared == expected[method]


def test_recipes_ship_with_the_package():
    assert Path(recipes.find("recipes/full-shot/ssv2-st.yaml")).is_file() and len(TRAINING) == 15
