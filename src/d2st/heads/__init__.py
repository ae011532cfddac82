"""Matching heads: from frame features of support and query to one logit per class.

Every head is a :class:`~d2st.heads.base.Head` in its own file, called as ``head(support, labels, query) -> logits``:

- support (..., S, T, D): frame features of the S support clips,
- labels (S,) or (..., S): their classes, integers 0..way-1 in any order, every class at least once,
- query (..., Q, T', D): frame features of the Q query clips,
- logits (..., Q, way): larger is more alike.

Leading dimensions are episodes: a batch of them is one call. ``head.embed`` is its per-clip stage, ``head.match`` the
rest; ``head.loss`` trains with it.
"""

import inspect
from collections.abc import Mapping

import torch

from ..data.options import TextConfig
from ..errors import D2STError
from ..utils.config import checked_options
from .base import DEFAULT, FILLED, EncodedEpisode, Head, HeadSpec
from .bi_mhm import BiMHM, bi_mhm
from .clip_fsar import CLIPFSAR, D2ST_MM
from .emp_net import EMPNet
from .head_file import load, save
from .hyrsm import HyRSM
from .logistic import Logistic
from .matching import class_prototypes, cosines, frame_distances
from .molo import MoLo
from .otam import OTAM, otam, otam_both
from .phases import Phases
from .product import Product
from .prototype import Prototype
from .ridge import Ridge
from .sloshnet import SloshNet
from .strm import STRM
from .ta2n import TA2N
from .team import TEAM
from .trx import TRX
from .ts_dcm import TSDCM
from .zero_shot import ZeroShot

HEADS: dict[str, type[Head]] = {
    "bi-mhm": BiMHM,
    "clip-fsar": CLIPFSAR,
    "emp-net": EMPNet,
    "hyrsm": HyRSM,
    "logistic": Logistic,
    "molo": MoLo,
    "otam": OTAM,
    "phases": Phases,
    "product": Product,
    "prototype": Prototype,
    "ridge": Ridge,
    "sloshnet": SloshNet,
    "strm": STRM,
    "ta2n": TA2N,
    "team": TEAM,
    "trx": TRX,
    "ts-dcm": TSDCM,
    "zero-shot": ZeroShot,
}


MOST_PARAMETERS = 2**29  # two GB


def options_of(name: str) -> dict[str, inspect.Parameter]:
    """Return the options of a head, in order, as its constructor has them.

    Raises:
        D2STError: no head has that name.
    """
    if name not in HEADS:
        raise D2STError(f"There is no head named '{name}'; choose one of: {', '.join(sorted(HEADS))}.")
    known = inspect.signature(HEADS[name]).parameters
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)  # of a class without __init__
    return {key: option for key, option in known.items() if option.kind not in variadic}


def defaults_of(name: str) -> dict[str, object]:
    """Return the defaults of a head's options, of those that have one."""
    return {key: option.default for key, option in options_of(name).items() if option.default is not option.empty}


def check_options(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """Check options of a head, and return them as its constructor has them.

    Raises:
        D2STError: no head has that name, it has no such option, or the option no such value.
    """
    known = options_of(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise D2STError(
            f"The head '{name}' has no option {', '.join(unknown)}; its options are: {', '.join(known) or 'none'}."
        )
    constructor = HEADS[name].__init__
    if not hasattr(constructor, "check"):  # a head from elsewhere: its annotations, which the help shows, say it all
        constructor = checked_options(f"The head '{name}'")(constructor)
    return constructor.check(options)


def build(name: str, **options: object) -> Head:
    """Build a matching head by its name.

    Args:
        name: one of ``d2st.heads.HEADS``.
        **options: the head's own options, see its class.

    Raises:
        D2STError: no head has that name, the head has no such option, or lacks one that it cannot do without.
    """
    known = options_of(name)
    options = check_options(name, options)
    missing = [key for key, option in known.items() if option.default is option.empty and key not in options]
    if missing:
        raise D2STError(f"The head '{name}' cannot be built without {', '.join(missing)}; see its class.")
    _check_size(name, options)
    head = HEADS[name](**options)
    head.spec = HeadSpec(name, {key: option.default for key, option in known.items()} | options)
    return head


def _check_size(name: str, options: Mapping[str, object]) -> None:
    """Refuse a head that does not fit into memory, before it takes any; its file may be a stranger's."""
    try:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in HEADS[name](**options).parameters())
    except (RuntimeError, NotImplementedError):  # a head from elsewhere that looks at its tensors
        return
    if size > MOST_PARAMETERS:
        sizes = {key: value for key, value in options.items() if isinstance(value, int | tuple)}
        raise D2STError(
            f"The head '{name}' would have {size:,} parameters with {sizes}; {MOST_PARAMETERS:,} are the most. Choose "
            f"smaller sizes."
        )


__all__ = [
    "CLIPFSAR",
    "D2ST_MM",
    "DEFAULT",
    "FILLED",
    "HEADS",
    "OTAM",
    "STRM",
    "TA2N",
    "TEAM",
    "TRX",
    "TSDCM",
    "BiMHM",
    "EMPNet",
    "EncodedEpisode",
    "Head",
    "HeadSpec",
    "HyRSM",
    "Logistic",
    "MoLo",
    "Phases",
    "Product",
    "Prototype",
    "Ridge",
    "SloshNet",
    "TextConfig",
    "ZeroShot",
    "bi_mhm",
    "build",
    "class_prototypes",
    "cosines",
    "frame_distances",
    "load",
    "options_of",
    "otam",
    "otam_both",
    "save",
]
