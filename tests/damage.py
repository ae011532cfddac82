"""Damaged copies of whole files, as copying, editing and bad luck make them."""

import contextlib
import copy
import json
import random
from collections.abc import Iterator

from safetensors import safe_open
from safetensors.torch import save_file

NUMBERS = (0, -1, 7, 10**9, 10**30, 0.5, -1e300, float("nan"), float("inf"))
VALUES = (*NUMBERS, None, True, "", "x", "\0", [], [[]], {}, [1e9] * 3)
NOTHING = (b"", b"{}", b"[]", b"null", b"5", b'"x"', b"{" * 2000, b"[" * 100_000, b"\xff\xfe", b"\0" * 50)


def json_texts(whole: object, count: int, seed: int = 0) -> Iterator[bytes]:
    """Damaged JSON: a key less, another type, a list that is shorter, cut, bytes changed, too deep, no object."""
    rng = random.Random(seed)
    text = json.dumps(whole).encode()
    yield from (*NOTHING, text + b"}")
    for _ in range(count):
        kind = rng.randrange(8)
        if kind == 0:
            yield text[: rng.randrange(len(text))]
        elif kind == 1:
            damaged = bytearray(text)
            damaged[rng.randrange(len(text))] = rng.randrange(256)
            yield bytes(damaged)
        else:
            yield json.dumps(changed(whole, rng)).encode()


def changed(whole: object, rng: random.Random) -> object:
    """A copy of parsed JSON in which one value is gone or another one."""
    content = copy.deepcopy(whole)
    places = list(_places(content))
    holder, key = rng.choice(places)
    if rng.random() < 0.25:
        del holder[key]
    elif rng.random() < 0.1 and isinstance(holder, dict):
        holder["unknown"] = 1
    else:
        holder[key] = rng.choice(VALUES)
    return content


def tensor_files(whole, path, count: int, seed: int = 0) -> Iterator[None]:
    """Damage a safetensors file, a copy of ``whole`` at ``path``, before each turn."""
    rng = random.Random(seed)
    with safe_open(whole, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    content = whole.read_bytes()
    for _ in range(count):
        kind = rng.randrange(6)
        own, about = dict(tensors), dict(metadata)
        name = rng.choice(list(tensors))
        if kind == 0:
            path.write_bytes(content[: rng.randrange(len(content))])
        elif kind == 1:
            damaged = bytearray(content)
            for _ in range(rng.randrange(1, 4)):
                damaged[rng.randrange(min(len(content), 400))] = rng.randrange(256)
            path.write_bytes(bytes(damaged))
        else:
            if kind == 2:
                del own[name]
            elif kind == 3:
                own[name] = rng.choice([own[name].flatten()[:1], own[name].double() * float("nan"), own[name][None]])
            elif kind == 4:
                own[rng.choice([f"{name}x", "x", "a/b/c", "99.frames"])] = own.pop(name)
            elif about:
                about = _changed_texts(about, rng)
            save_file({key: tensor.contiguous().clone() for key, tensor in own.items()}, path, about)
        yield


def _changed_texts(about: dict[str, str], rng: random.Random) -> dict[str, str]:
    key = rng.choice(list(about))
    texts = ["", "x", "-1", "5", "[]", "{}", "null", "nan", "[" * 3000, "1" * 5000, "\0", '["a", "a"]']
    with contextlib.suppress(ValueError, IndexError, TypeError):
        texts.append(json.dumps(changed(json.loads(about[key]), rng)))
    return {name: text for name, text in about.items() if name != key} | (
        {} if rng.random() < 0.2 else {key: rng.choice(texts)}
    )


def _places(content: object) -> Iterator[tuple[object, object]]:
    keys = list(content) if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from _places(content[key])
