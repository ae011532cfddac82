"""The readers of d2st's own files: whatever lies there, they give its content or a sentence."""

import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from d2st.errors import D2STError
from d2st.utils.tensor_file import read_shapes, read_tensors
from d2st.utils.versioned_json import parse, read_versioned

WANTED = {"format": 1, "what": "calibration", "remedy": "write it again"}


def test_a_whole_file_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"format": 1, "names": ["é"], "x": 0.5, "n": 3}))
    assert read_versioned(path, **WANTED, needs=["names"]) == {"format": 1, "names": ["é"], "x": 0.5, "n": 3}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not the JSON"),
        (b"[]", "a list of 0 and not the object"),
        (b"5", "holds 5 and not the object"),
        (b"{}", "says format null, and this d2st"),
        (b'{"format": 2, "d2st_version": "0.9"}', "reads 1; write it again. It was written by d2st 0.9"),
        (b'{"format": true}', "says format True"),
        (b'{"format": 1}', "lacks entries"),
        (b'{"format": 1, "entries": NaN}', "NaN is no finite number"),
        (b'{"format": 1, "entries": 1e999}', "1e999 is no finite number"),
        (b'{"format": 1, "entries": ' + b"9" * 5000 + b"}", "more digits"),
        (b'{"format": 1, "format": 1}', "'format' is in it twice"),
        (b'{"format": 1, "entries": "\xff"}', "not UTF-8"),
        (b'{"entries": ' + b"[" * 40 + b"]" * 40 + b"}", "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"format": 1,', "not the JSON"),
    ],
)
def test_a_damaged_file_is_named_in_a_sentence(tmp_path, content, said):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(D2STError) as error:
        read_versioned(path, **WANTED, needs=["entries"])
    assert said in str(error.value)
    assert str(error.value).startswith(f"The calibration '{path}'")
    assert "write it again" in str(error.value)


def test_what_is_no_file_is_named_in_a_sentence(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large.json"
    large.write_text(json.dumps({"format": 1, "x": "a" * 100}))
    for path, said in [
        (tmp_path / "none.json", "There is no calibration"),
        (tmp_path, "The calibration"),
        (tmp_path / "pipe", "no ordinary file"),
        (large, "d2st writes 50 at most"),
        (tmp_path / "a\0b", "cannot be read"),
    ]:
        with pytest.raises(D2STError, match=said):
            read_versioned(path, **WANTED, most=50)


@given(st.binary(max_size=60) | st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_parsed_or_refused(content):
    try:
        parse(content, "It", "write it again")
    except D2STError as error:
        assert str(error).startswith("It ")


def test_tensor_files_are_read_or_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    wanted = {"what": "adapter weights", "remedy": "copy the adapter again"}
    save_file({"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)}, path, {"format": "1"})
    tensors, metadata = read_tensors(path, **wanted)
    assert tensors["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert metadata == {"format": "1"}
    assert read_shapes(path, **wanted) == {"w": (2, 3), "n": ()}
    whole = path.read_bytes()
    for content in (b"", whole[:40], whole[:-1], b"\xff" * 100, whole.replace(b"F32", b"F99")):
        path.write_bytes(content)
        for read in (read_tensors, read_shapes):
            with pytest.raises(D2STError, match=r"adapter weights '.*' cannot be read .*; copy the adapter again"):
                read(path, **wanted)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(D2STError, match="no ordinary file"):
        read_tensors(tmp_path / "pipe", **wanted)
    with pytest.raises(D2STError, match="There is no adapter weights"):
        read_tensors(tmp_path / "none", **wanted)
    save_file({"w": torch.tensor([1.0, torch.nan]), "v": torch.zeros(1)}, path)
    with pytest.raises(D2STError, match="hold numbers that are not finite, in 'w'; copy the adapter again"):
        read_tensors(path, **wanted)
