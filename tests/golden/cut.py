"""Makes the small goldens of this folder from whole ones: ``python tests/golden/cut.py FOLDER...``.

Everything that goes in (inputs, weights, cotangents) stays whole. Of large results every seventh number is kept, in the
order of memory; the JSON says of which (``kept``). Intermediate tensors and float32 runs beside float64 ones are left
out. ``goldens.read`` puts the numbers back in their places.
"""

import json
import re
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

EVERY = 7  # coprime to all widths, so that every row, column, frame and channel is among those kept
LARGE = 300  # numbers; smaller results stay whole
RESULT = re.compile(r"(y|gx|out/.*|gin?/.*|g[os]?/.*|wm/.*)$")
LEFT_OUT = re.compile(r"(mid/.*|out/mid_.*|y32|gx32|g32/.*|proto|proto32)$")
NAMES = (
    "density_T4_2x4x4",
    "density_resnet_uniform_7",
    "mini_resnet_d2st_stage1",
    "mini_resnet_dst_stage1",
    "mini_resnet_st_stage1",
    "mini_resnet_vanilla_stage1",
    "mini_vit_clip_2w1s",
    "mini_vit_d2st_w64",
    "aim_encoder_t1_f32",
    "dualpath_encoder_tt1_noaa_f32",
    "stadapter_encoder_12x_f32",
    "clipfsar_train_5w1s",
    "empnet_5w1s",
    "empnet_merge_5w3s",
    "hyrsm_1shot_5w1s",
    "hyrsmpp_1shot_5w1s",
    "otam_head_v1_5w1s",
    "ta2n_5w1s_train_q2",
    "ta2n_5w3s",
    "zeroi2v/block_nt2_f64",
    "zeroi2v/encoder_w48_f32",
    "zeroi2v/shift_long_c48_div12_f32",
    "sloshnet/sloshnet_c12_5w1s_train",
    "sloshnet/sloshnet_c1_5w3s",
    "strm_c2_5w1s",
    "strm_c23_5w3s",
    "team/5w3s_f64",
    "ts-fsar/dcm_5w3s_a0.4_f64",
    "ts-fsar/model_train_5w1s_f32",
    "ta_block_1video",
    "ta_block_5videos",
)


def cut(source: Path, target: Path) -> None:
    """Write the small one of a golden (path without its ending)."""
    about, tensors = json.loads(Path(f"{source}.json").read_text()), {}
    about["kept"] = {"every": EVERY, "shapes": {}}
    for key, tensor in load_file(f"{source}.safetensors").items():
        if LEFT_OUT.match(key):
            continue
        assert not tensor.isnan().any()
        if RESULT.match(key) and tensor.numel() > LARGE:
            about["kept"]["shapes"][key] = list(tensor.shape)
            tensor = tensor.flatten()[::EVERY].clone()
        tensors[key] = tensor
    save_file(tensors, f"{target}.safetensors")
    Path(f"{target}.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    for name in NAMES:
        (source,) = (folder / name for folder in map(Path, sys.argv[1:]) if (folder / f"{name}.json").exists())
        cut(source, Path(__file__).parent / name.replace("/", "_"))
