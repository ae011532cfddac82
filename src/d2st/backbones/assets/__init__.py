"""Backbones that ship inside the package, so that ``d2st demo`` and the tests need no network.

``d2st_stills`` is made by ``python scripts/pretrain_stills.py`` (see that module): it has seen still images only.
"""

SHIPPED = {
    "d2st_stills": {
        "architecture": "resnet18",  # a timm name; kwargs go to timm.create_model
        "kwargs": {
            "layers": (1, 2, 1, 1),
            "channels": (32, 64, 128, 192),
            "stem_type": "deep",
            "stem_width": 16,
            "output_stride": 16,
        },
        "file": "d2st_stills.safetensors",
        "pretrained_cfg": {
            "input_size": (3, 64, 64),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
    }
}
