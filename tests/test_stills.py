"""The shipped backbone: made by the package's own command from stills, and there to be used."""

import json
import os

import numpy as np
import pretrain_stills as stills
import pytest
import torch
from safetensors import safe_open
from stills import MOST, render_still

import d2st
from d2st.backbones.assets import SHIPPED
from d2st.backbones.build import ASSETS


def test_objects_of_a_still_are_where_they_are_said_to_be():
    """A lone large object covers most of what differs from its background around the place it is said to be at."""
    seen = 0
    for index in range(200):
        image, objects = render_still(1, index, 64)
        there = objects[objects[:, 7] >= 0]
        assert 1 <= len(there) <= MOST and (objects[len(there) :] == -1).all()
        if len(there) == 1 and there[0, 2] > 0 and (np.abs(there[0, :2] - 0.5) < 0.2).all():
            away = np.abs(image.astype(float) - np.median(image, (0, 1))).sum(-1)
            away[away < np.percentile(away, 90)] = 0
            rows, columns = np.arange(64) + 0.5, np.arange(64) + 0.5
            x, y = (away.sum(0) * columns).sum() / away.sum(), (away.sum(1) * rows).sum() / away.sum()
            assert np.hypot(x / 64 - there[0, 0], y / 64 - there[0, 1]) < 0.2
            seen += 1
    assert seen > 3


def test_a_short_training_learns_and_writes_the_backbone(tmp_path, monkeypatch):
    spec = SHIPPED["d2st_stills"]
    small = spec | {
        "kwargs": spec["kwargs"] | {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16), "stem_width": 8},
        "pretrained_cfg": spec["pretrained_cfg"] | {"input_size": (3, 32, 32)},
    }
    monkeypatch.setitem(SHIPPED, "small", small)
    config = stills.StillsConfig(out=tmp_path / "small.safetensors", name="small", images=1024, batch=32, workers=0)
    torch.manual_seed(0)
    batch = next(iter(torch.utils.data.DataLoader(stills.Stills(0, 32, 32), 32)))
    before = sum(value.item() for value in stills.StillsModel("small").losses(*batch).values())
    threads = torch.get_num_threads()
    try:
        result = stills.pretrain(config)
        again = stills.pretrain(config)
    finally:
        torch.set_num_threads(threads)
    assert result["losses"] == again["losses"]
    assert sum(result["losses"].values()) < 0.92 * before
    with safe_open(config.out, "pt") as file:
        assert json.loads(file.metadata()["config"])["images"] == 1024
        keys = set(file.keys())
    assert keys == set(stills.StillsModel("small").backbone.state_dict())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_load_and_say_how_they_were_made(name):
    file = ASSETS / SHIPPED[name]["file"]
    assert os.path.getsize(file) < 4_000_000
    with safe_open(file, "pt") as content:
        made = content.metadata()
    defaults = {key: value for key, value in vars(stills.StillsConfig()).items() if key != "out"}
    assert json.loads(made["config"]) == defaults, "the command's defaults no longer make the shipped file"
    encoder = d2st.adapt(name, d2st.NoneConfig(), frames=2)
    assert encoder(torch.zeros(1, 2, 3, 64, 64)).shape == (1, 2, encoder.num_features)


def test_shipped_backbone_reads_stills_it_never_saw():
    """Its pre-training heads are not shipped, so a linear reading is fitted: where is the lone object of a still?"""
    encoder = d2st.adapt("d2st_stills", d2st.NoneConfig(), frames=1)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (encoder.mean, encoder.std))
    images, places = [], []
    for index in range(1500):
        image, objects = render_still(99, index, 64)
        if objects[1, 7] < 0:
            images.append((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)
            places.append(torch.from_numpy(objects[0, :2]))
    with torch.no_grad():
        features = encoder(torch.stack(images)[:, None])[:, 0]
    places, half = torch.stack(places), len(images) // 2
    features = (features - features[:half].mean(0)) / features[:half].std(0).clamp_min(1e-4)
    features = torch.cat([features, torch.ones(len(images), 1)], 1)  # (n, D + 1)
    penalty = 30.0 * torch.eye(features.shape[1])
    weights = torch.linalg.solve(features[:half].T @ features[:half] + penalty, features[:half].T @ places[:half])
    error = (features[half:] @ weights - places[half:]).abs().mean()
    guess = (places[:half].mean(0) - places[half:]).abs().mean()
    assert error < 0.6 * guess
