"""Recipes that ship with the package: YAML files for ``--config``, to be put together.

``recipes/DATASET-BACKBONE-VARIANT.yaml`` says how to train on a data set with a kind of backbone,
``recipes/methods/METHOD.yaml`` what is trained, ``recipes/protocols/VARIANT.yaml`` how it is tested::

    d2st train --config recipes/ssv2-full-vit-b16-released.yaml --config recipes/methods/d2st-released.yaml --data DIR

``recipes/full-shot/DATASET-METHOD.yaml`` says all about the training of a classifier,
``recipes/full-shot/protocols/DATASET.yaml`` how it is tested.

The variant ``paper`` follows the paper's Table 13 and text, ``released`` what the released code really does.
"""

from pathlib import Path

FOLDER = Path(__file__).parent


def find(name: str) -> str:
    """The file that ``--config`` names: as given where it exists, else the shipped recipe of that name, if any."""
    shipped = FOLDER / Path(name).relative_to("recipes") if Path(name).parts[:1] == ("recipes",) else None
    return str(shipped) if shipped and not Path(name).exists() and shipped.is_file() else name
