"""The authors' numbers that come with the repository: who has some, how large they are, small ones of whole ones."""

import json
from pathlib import Path

import goldens
import pytest
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "golden"
NO_NUMBERS = {
    "none",
    "full",
    "d2st-local",
    "lora",
    "side4video",
    "prototype",
    "ridge",
    "logistic",
    "zero-shot",
    "molo",
    "phases",
}  # nothing to compare, ours, or none at hand (golden/README_*.md)
OF = {
    "vanilla": "mini_resnet_vanilla_*",
    "st": "stadapter_encoder_*",
    "dst": "mini_resnet_dst_*",
    "d2st": "mini_vit_clip_*",
    "aim": "aim_encoder_*",
    "task-adapter": "ta_block_*",
    "dualpath": "dualpath_encoder_*",
    "dist": "dist_temporalnet_*",
    "dia": "dia_adapter_*",
    "zeroi2v": "zeroi2v_encoder_*",
    "lsn": "ts-fsar_model_*",
    "bi-mhm": "bimhm_*",
    "otam": "otam_head_*",
    "trx": "trx_*",
    "strm": "strm_*",
    "team": "team_*",
    "ts-dcm": "ts-fsar_dcm_*",
    "hyrsm": "hyrsm_*",
    "clip-fsar": "clipfsar_*",
    "emp-net": "empnet_*",
    "ta2n": "ta2n_*",
    "sloshnet": "sloshnet_*",
    "product": "ta_match_*",
}


def test_every_system_and_head_has_numbers_in_the_repository():
    from d2st.adapters import SYSTEMS
    from d2st.heads import HEADS

    assert {*SYSTEMS, *HEADS} == OF.keys() | NO_NUMBERS
    for pattern in (*OF.values(), "hyrsmpp_*", "chamfer*"):
        assert list(FOLDER.glob(f"{pattern}.safetensors")), pattern


def test_they_are_small():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 11e6


def test_a_small_golden_is_compared_where_it_has_numbers(tmp_path, monkeypatch):
    whole = torch.arange(24.0).view(2, 12) - 5
    save_file({"y": whole.flatten()[::7].clone(), "x": whole}, tmp_path / "one.safetensors")
    (tmp_path / "one.json").write_text(json.dumps({"kept": {"every": 7, "shapes": {"y": [2, 12]}}}))
    monkeypatch.setattr(goldens, "FOLDERS", [tmp_path])
    _, read = goldens.read("one")
    assert read["y"].shape == (2, 12) and (~read["y"].isnan()).sum() == 4 and goldens.largest(read["y"]) == 16
    assert goldens.relative_error(whole, read["y"]) == 0
    for place, seen in ((0, True), (1, False)):
        ours = whole.clone()
        ours[0, 7 + place] += 4
        assert goldens.relative_error(ours, read["y"]) == (pytest.approx(4 / 16) if seen else 0)
    assert not goldens.relative_error(whole * torch.nan, read["y"]) <= 1
    (tmp_path / "more").mkdir()
    save_file({"y": whole}, tmp_path / "more" / "one.safetensors")
    (tmp_path / "more" / "one.json").write_text("{}")
    monkeypatch.setattr(goldens, "FOLDERS", [tmp_path, tmp_path / "more"])
    assert torch.equal(goldens.read("one")[1]["y"], whole), "a whole one goes first"
