"""YAML files that people write: values as typed, no key twice, and no file that costs more than its size."""

import contextlib
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st import D2STError
from d2st.utils.yaml_file import MOST_BYTES, parse_yaml, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)


def test_values_are_as_typed():
    text = "a: 001\nb: yes\nc: 1.0\nd: null\ne: 'null'\nf:\ng: [0x10, ~, \"~\"]\nh: {i: 2024-05-01}\n"
    tree = {"a": "001", "b": "yes", "c": "1.0", "e": "null", "h": {"i": "2024-05-01"}}
    assert parse_yaml(text, "it") == tree | {"d": "null", "f": "", "g": ["0x10", "~", "~"]}
    assert parse_yaml(text, "it", nulls=True) == tree | {"d": None, "f": None, "g": ["0x10", None, "~"]}
    assert parse_yaml("", "it") is None and parse_yaml("a: &x [1, 2]\nb: *x", "it")["b"] == ["1", "2"]
    assert parse_yaml('{"a": null, "b": ["1"]}', "it", nulls=True) == {"a": None, "b": ["1"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("support: süp\n".encode("latin-1"), r"not UTF-8 text \(byte 10\)"),
        ("a: 1\n".encode("utf-16"), "not UTF-8"),
        (b"a: 1\nb: 2\na: 3\n", "the key 'a' twice, again in line 3"),
        (b"a: {b: 1, b: 2}\n", "the key 'b' twice"),
        (b"a: [", "cannot be read as YAML"),
        (b"a: 1\x00\n", "cannot be read as YAML"),
        (b"a: !!python/object/apply:os.system [ls]\n", "a tag"),
        (b"a: 1\n---\na: 2\n", "several YAML documents"),
        (b"? [a, b]\n: 1\n", "a key in line 1 that is no name"),
        (b"a: *b\n", "alias"),
        (b"a: &a [*a]\n", "alias"),
        (b"a: " + b"[" * 5000, "nested too deeply|cannot be read"),
        (b"a: " + b"[" * 40 + b"]" * 40, "nested too deeply"),
        (BOMB.encode(), "more than 100,000 values"),
        (b"a" * (MOST_BYTES + 1), "too large"),
    ],
)
def test_what_is_wrong_is_a_sentence_within_a_second(tmp_path, content, said):
    (tmp_path / "x.yaml").write_bytes(content)
    start = time.process_time()
    with pytest.raises(D2STError, match=said) as error:
        read_yaml(tmp_path / "x.yaml")
    assert time.process_time() - start < 1 and "x.yaml" in str(error.value) and len(str(error.value)) < 500


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path, "a\0b"):
        with pytest.raises(D2STError, match="cannot be read"):
            read_yaml(path)


_TREES = st.recursive(
    st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(_TREES)
def test_what_pyyaml_writes_is_read(tree):
    text = yaml.safe_dump(tree, allow_unicode=True)
    assert parse_yaml(text, "it", nulls=True) == tree


@settings(deadline=None)
@given(st.text("ab:-[]{}&*!#'\"|> \n,?1", max_size=40))
def test_any_text_is_a_tree_or_a_sentence(text):
    with contextlib.suppress(D2STError):
        parse_yaml(text, "it")
