"""Settings are checked where a config is made: annotations, bounds, and what a file may say."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d2st import D2STError
from d2st.utils.config import Bounds, build, check_fields, checked, option

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Inner:
    model: str | None = None

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Settings:
    data: str
    way: int = option(5, least=1, most=100)
    ratio: float = option(0.25, above=0, most=1)
    fusion: Literal["mean", "sum"] = "mean"
    layers: Literal[1, 2] = 1
    activations: tuple[Literal["down", "up"], ...] | None = None
    positions: Literal["all", "late"] | tuple[int, ...] = "all"
    density: Triple | tuple[Triple, ...] | None = option(None, least=1, most=64)
    shot: int | tuple[int, ...] = option((1, 5), least=1)
    words: tuple[str, ...] = ()
    query: tuple[str, ...] | str = ""
    flag: bool = False
    inner: Inner = field(default_factory=Inner)
    options: Mapping[str, object] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict, metadata={"bounds": Bounds(least=0)})

    def __post_init__(self):
        check_fields(self)


@dataclass(frozen=True)
class Own(Settings):
    kernel: int = option(3, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise D2STError(f"Own: kernel={self.kernel} must be odd.")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"way": np.int64(3)}, 3),
        ({"ratio": 1}, 1.0),
        ({"ratio": np.float32(0.5)}, 0.5),
        ({"data": Path("clips")}, "clips"),
        ({"layers": np.int32(2)}, 2),
        ({"activations": ["down", "up"]}, ("down", "up")),
        ({"positions": [0, 1]}, (0, 1)),
        ({"positions": range(2)}, (0, 1)),
        ({"density": [2, 4, 4]}, (2, 4, 4)),
        ({"density": [[2, 4, 4], (2, 2, 2)]}, ((2, 4, 4), (2, 2, 2))),
        ({"shot": [1, 5]}, (1, 5)),
        ({"shot": 5}, 5),
        ({"query": ["a", Path("b")]}, ("a", "b")),
        ({"flag": np.bool_(True)}, True),
    ],
)
def test_what_is_meant_is_taken(given, kept):
    value = getattr(Settings(**{"data": "x", **given}), next(iter(given)))
    assert value == kept and type(value) is type(kept)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"way": True}, "Settings: way=True must be a whole number from 1 to 100."),
        ({"way": 2.0}, "way=2.0 must be a whole number from 1 to 100"),
        ({"way": "5"}, "way='5' must be a whole number"),
        ({"way": 101}, "way=101 must be"),
        ({"way": 10**5000}, "way="),
        ({"ratio": math.nan}, "ratio=nan must be a finite number above 0 and at most 1."),
        ({"ratio": 10**400}, "ratio="),
        ({"ratio": 0}, "ratio=0 must be a number above 0 and at most 1."),
        ({"fusion": "meen"}, "fusion='meen' must be 'mean' or 'sum'. Did you mean 'mean'?"),
        ({"layers": True}, "layers=True must be 1 or 2."),
        ({"activations": "down"}, "must be a list of 'down' or 'up', or None"),
        ({"activations": ("dwon",)}, "Did you mean 'down'?"),
        ({"positions": "lat"}, "Did you mean 'late'?"),
        ({"density": (2, 4)}, "density=(2, 4) must be a list of 3 whole numbers from 1 to 64"),
        ({"density": (2, 4, 10**9)}, "density=(2, 4, 1000000000)"),
        ({"density": (2, 4, 0)}, "density=(2, 4, 0)"),
        ({"words": "norm"}, "words='norm' must be a list of texts."),
        ({"words": (1,)}, "words=(1,) must be a list of texts."),
        ({"words": {"a", "b"}}, "must be a list of texts."),
        ({"words": b"ab"}, "must be a list of texts."),
        ({"flag": 1}, "flag=1 must be true or false."),
        ({"flag": None}, "flag=None must be true or false."),
        ({"data": None}, "data=None must be text."),
        ({"data": "a\0b"}, "must be text"),
        ({"data": ""}, "data is an empty text; a variable of the shell"),
        ({"shot": []}, "shot is an empty list. Say what it is, or leave it out."),
        ({"activations": ()}, "activations is an empty list"),
        ({"counts": {"a": -1}}, "must be names with whole numbers of at least 0"),
        ({"counts": {1: 1}}, "must be names with whole numbers"),
        ({"counts": [1]}, "must be names with whole numbers"),
        ({"inner": None}, "inner=None must be Inner."),
        ({"inner": {"model": "x"}}, "must be Inner."),
        ({"options": 3}, "options=3 must be names with"),
    ],
)
def test_what_is_not_allowed_is_a_sentence(given, sentence):
    with pytest.raises(D2STError) as error:
        Settings(**{"data": "x", **given})
    assert sentence in str(error.value) and len(str(error.value)) < 400


def test_a_subclass_is_checked_and_adds_checks_of_its_own():
    assert Own("x", kernel=5).kernel == 5
    for wrong, sentence in (({"kernel": 4}, "odd"), ({"kernel": "5"}, "whole"), ({"way": 0}, "Own: way=0")):
        with pytest.raises(D2STError, match=sentence):
            Own("x", **wrong)


def test_an_annotation_that_cannot_be_read_allows_everything():
    @dataclass(frozen=True)
    class Local:
        other: "Elsewhere" = None  # noqa: F821
        width: "int" = option(1, least=1)

        def __post_init__(self):
            check_fields(self)

    assert Local(other=3).other == 3
    with pytest.raises(D2STError, match="width='x'"):
        Local(width="x")


def test_made_from_a_file():
    where = "adapter_config.json in runs/a"
    made = build(Settings, {"data": "x", "density": [2, 2, 2], "inner": {"model": "m"}}, where)
    assert (made.density, made.inner) == ((2, 2, 2), Inner("m"))
    for mapping, sentence in (
        ([], "made from names and values"),
        ({}, "Settings needs data"),
        ({"data": "x", "wya": 3}, "has no setting 'wya'; did you mean 'way'?"),
        ({"data": "x", 3: 3}, "has no setting 3; it has: data, way"),
        ({"data": "x", "way": "3"}, "Settings: way='3' must be"),
        ({"data": "x", "inner": {"modl": "m"}}, "inner: Inner has no setting 'modl'; did you mean 'model'?"),
    ):
        with pytest.raises(D2STError) as error:
            build(Settings, mapping, where)
        assert str(error.value).startswith(where) and sentence in str(error.value)


_ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["mean", "sum", "all", "down", "late", 1, 2, 3])
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner, inner)
        | st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(name=st.sampled_from(sorted(Settings.__dataclass_fields__)), value=_ANYTHING)
def test_whatever_is_given_is_valid_or_a_sentence(name, value):
    try:
        config = Settings(**{"data": "x", name: value})
    except D2STError:
        return
    again = Settings(**{"data": "x", name: getattr(config, name)})
    assert again == config, "what was kept is not taken again"
    hash(getattr(config, name)) if name not in ("options", "inner", "counts") else None


@given(value=st.floats() | st.integers(), low=st.floats(-9, 9), high=st.floats(-9, 9))
def test_bounds(value, low, high):
    def kept(**bounds):
        try:
            return checked("X", "y", value, float, Bounds(**bounds)) == value
        except D2STError:
            return False

    finite = math.isfinite(value)
    assert kept(least=low, most=high) == (finite and low <= value <= high)
    assert kept(above=low, below=high) == (finite and low < value < high)
