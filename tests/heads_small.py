"""Every matching head, small, and training episodes for it."""

import torch

from d2st import heads
from d2st.heads import EncodedEpisode, Head
from d2st.heads.phases import spans

FEATURES, FRAMES, CLASSES = 16, 4, 7
GRID, PATCH = 2, 32  # of feature maps, and pixels of a frame behind one of their cells
GRIDS = {"ta2n": 4}  # of heads that need larger maps
# The options that make a head small. A new head needs a line here and is then held to tests/test_head_contract.py.
SMALL: dict[str, dict] = {
    "bi-mhm": {},
    "clip-fsar": {"features": FEATURES, "heads": 2, "hidden": 8},
    "emp-net": {"features": FEATURES, "best_patches": 3, "dropout": (0.0, 0.0)},
    "hyrsm": {"features": FEATURES, "heads": 2, "classes": CLASSES, "temporal_weight": 0.05},
    "logistic": {"penalty": 0.1},  # 40 steps
    "molo": {"features": FEATURES, "heads": 2, "hidden": 8, "classes": CLASSES},
    "otam": {},
    "phases": {"features": FEATURES, "phases": 2, "heads": 2, "dropout": 0.0},
    "product": {"features": FEATURES},
    "prototype": {},
    "ridge": {},
    "sloshnet": {"stage_channels": (4, 8, 8, FEATURES), "stage_scales": (4, 2, 1, 1), "width": 12, "dropout": 0.0},
    "strm": {"features": FEATURES, "frames": FRAMES, "width": 12, "cardinalities": (2, 3), "dropout": 0.0},
    "ta2n": {"features": FEATURES},
    "team": {"features": FEATURES, "tokens": 5, "dropout": 0.0},
    "trx": {"features": FEATURES, "width": 12, "dropout": 0.0},
    "ts-dcm": {"features": FEATURES, "frames": FRAMES, "classes": CLASSES, "dropout": 0.0},
    "zero-shot": {"features": FEATURES},
}
NO_SUPPORT = {"zero-shot"}  # heads that do not look at the support clips


def build(name: str, **options: object) -> Head:
    """A head with random weights, the same each time, in eval mode; none are zero, which would hide what they gate."""
    torch.manual_seed(0)
    head = heads.build(name, **(SMALL[name] | options)).eval()
    for parameter in head.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.5)
    return head


def episode(
    head: Head,
    shots: tuple[int, ...] = (2, 1, 3),
    queries: int = 4,
    lead: tuple[int, ...] = (),
    frames: int = FRAMES,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> EncodedEpisode:
    """Random clips in the form the head takes, ``shots`` of each class, shuffled; every query is of a random class.

    Args:
        head: says whether clips are maps, and whether there is text and video.
        shots: support clips of each class.
        queries: Q.
        lead: leading dimensions.
        frames: T.
        seed: of everything random.
        dtype: of the features.
    """
    rng, way = torch.Generator().manual_seed(seed), len(shots)
    labels = torch.arange(way).repeat_interleave(torch.tensor(shots))
    labels = labels[torch.randperm(len(labels), generator=rng)]
    grid = GRIDS.get(head.spec.name, GRID)
    shape = (frames, FEATURES) if head.takes == "features" else (frames, FEATURES, grid, grid)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=rng, dtype=torch.float64).to(dtype)

    told = (len(spans(head.phases)),) if head.needs_phases else ()

    def clips(count: int) -> torch.Tensor:
        if head.takes == "stages":
            stages = zip(head.stage_channels, head.stage_scales, strict=True)
            return head.clips_of(None, [draw(*lead, count, frames, c, s * grid, s * grid) for c, s in stages])
        if head.takes == "tokens":
            return head.clips_of(None, [draw(*lead, count, frames, 1 + grid**2, FEATURES) for _ in range(3)])
        drawn = draw(*lead, count, *shape)
        return head.clips_of(drawn.amax((-2, -1)), drawn) if head.takes == "maps" else drawn

    def video(count: int) -> torch.Tensor | None:
        return draw(*lead, count, frames, 3, PATCH * grid, PATCH * grid) if head.needs_video else None

    return EncodedEpisode(
        support=clips(len(labels)),
        labels=labels,
        query=clips(queries),
        targets=torch.randint(way, (*lead, queries), generator=rng),
        classes=torch.randperm(CLASSES, generator=rng)[:way],
        text=draw(CLASSES, *told, FEATURES) if head.needs_text else None,
        support_video=video(len(labels)),
        query_video=video(queries),
    )


def text_of(episode: EncodedEpisode) -> torch.Tensor | None:
    """(way, D'), or (way, M, D') of phases: what ``match`` takes as text."""
    return None if episode.text is None else episode.text[episode.classes]
