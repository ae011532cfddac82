"""Mixed precision that rounds what is computed with, and not what is given."""

from typing import Any

from lightning_fabric.plugins import MixedPrecision


class WholeInputs(MixedPrecision):
    """Fabric's mixed precision with inputs as they are.

    Fabric's own rounds them, the video too, before the model sees it. Autocast rounds what goes into its products
    anyway; what else is made of the frames (targets, framesets, mixtures) is made of whole ones, as in evaluation.
    """

    def convert_input(self, data: Any) -> Any:
        """The data as they are."""
        return data
