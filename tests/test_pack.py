"""Tar shards: the same clips as from files, found by their bytes, kept when packed again."""

import json
import math
import random
import re
import shutil
import tarfile
import time

import pytest
import torch
import yaml
from small import SIDE
from test_pictures import extract
from test_structure import ROOT, arrows

from d2st.commands.check_data import CheckConfig, check
from d2st.commands.prepare import PrepareConfig, prepare
from d2st.data import sampling as frames
from d2st.data.datasets import open_dataset, open_division
from d2st.data.pack import writer
from d2st.data.pack.__main__ import main
from d2st.data.pack.shard import member_path, span
from d2st.data.pack.writer import pack
from d2st.data.store import list_store
from d2st.data.video.frame_file import read_metadata
from d2st.data.video.reader import VideoError
from d2st.errors import D2STError
from d2st.learning.groups import find_groups

SAMPLE = frames.build("uniform", 4)


@pytest.fixture(scope="module")
def packed(small, tmp_path_factory):
    """The small dataset in shards of three or four clips."""
    out = tmp_path_factory.mktemp("packed") / "shards"
    report = pack(small / "data", out, shard_mb=0.012)
    assert report["clips"] == 45 and 8 < report["shards"] < 20 and report["kept"] == 0
    return out


def test_only_what_opens_clips_knows_of_shards():
    users = {a for a, b in arrows(ROOT) if b.startswith("data.pack") and not a.startswith("data.pack")}
    stores = {"store", "store_writer"}
    videos = {"container", "frame_file", "frame_times", "open", "torchcodec_frames", "truncation"}
    known = {f"data.{name}" for name in stores} | {f"data.video.{name}" for name in videos}
    assert users == known | {"data.copies"}
    assert not [a for a, b in arrows(ROOT) if b == "data.pack.writer" and not a.startswith("data.pack")]


def test_clips_are_those_of_the_files(small, packed):
    files, shards = (open_dataset(data, small / "split.yaml", "test") for data in (small / "data", packed))
    assert [(c.id, c.label) for c in files.clips] == [(c.id, c.label) for c in shards.clips]
    for index in range(len(files)):
        assert torch.equal(files.read(index, SAMPLE), shards.read(index, SAMPLE))
    report = check(CheckConfig(data=str(packed), split=str(small / "split.yaml"), way=2, full=True, workers=0))
    assert report["usable"] and not report["bad"] and not report["duplicates"]


def test_a_frame_store_is_packed_too(small, tmp_path):
    prepare(PrepareConfig(data=str(small / "data"), out=str(tmp_path / "store"), workers=0, short_side=SIDE))
    pack(tmp_path / "store", tmp_path / "packed", shard_mb=0.05)
    store, packed = (open_dataset(tmp_path / name) for name in ("store", "packed"))
    for index in range(0, len(store), 7):
        assert torch.equal(store.read(index, SAMPLE), packed.read(index, SAMPLE))
        assert read_metadata(store.clips[index].path) == read_metadata(packed.clips[index].path)
    again = pack(tmp_path / "packed", tmp_path / "again", shard_mb=1)
    assert again["shards"] == 1
    assert torch.equal(open_dataset(tmp_path / "again").read(3, SAMPLE), store.read(3, SAMPLE))


def test_shards_are_plain_tar_files_in_webdatasets_layout(small, packed):
    seen, mixed = {}, 0
    for shard in sorted((packed / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = tar.getmembers()
            classes = set()
            for clip, about in zip(members[::2], members[1::2], strict=True):
                told = json.load(tar.extractfile(about))
                assert clip.name.endswith(".mp4") and about.name == clip.name.replace(".mp4", ".json")
                assert tar.extractfile(clip).read() == (small / "data" / told["id"]).read_bytes()
                seen[told["id"]] = shard, clip.offset_data, clip.size
                classes.add(told["class"])
            mixed += len(classes) > 1
    assert len(seen) == 45 and mixed > 5, "clips of a class should not lie together"
    for clips in list_store(packed).clips.values():
        for id, path in clips.items():
            assert span(path) == seen[id]


def test_packing_again_keeps_what_has_not_changed(small, tmp_path):
    data, out = shutil.copytree(small / "data", tmp_path / "data"), tmp_path / "out"
    first = pack(data, out, shard_mb=0.012)
    times = {path: path.stat().st_mtime_ns for path in (out / "shards").glob("*.tar")}
    assert pack(data, out, shard_mb=0.012)["kept"] == first["shards"]
    assert times == {path: path.stat().st_mtime_ns for path in (out / "shards").glob("*.tar")}
    one = open_dataset(out).clips[3].path.parent
    one.write_bytes(one.read_bytes()[:-600])  # a shard that was cut short
    assert pack(data, out, shard_mb=0.012)["kept"] == first["shards"] - 1
    assert pack(data, out, shard_mb=1)["shards"] == 1 == len(list((out / "shards").glob("*.tar")))


def test_parts_and_missing_clips_are_kept_and_told(small, tmp_path, capsys):
    data = shutil.copytree(small / "data", tmp_path / "data")
    (tmp_path / "split.yaml").write_text(yaml.safe_dump({"train": "60%", "val": "40%"}))
    (data / "red" / "9.mp4").symlink_to(data / "red" / "0.mp4")
    flags = ["--out", str(tmp_path / "out"), "--split", str(tmp_path / "split.yaml")]
    assert main([str(data), *flags]) == 0
    assert "46 clips in 1 shards" in capsys.readouterr().out
    for part in ("train", "val"):
        files, shards = open_division(data, tmp_path / "split.yaml", part), open_division(tmp_path / "out", None, part)
        assert [clip.id for clip in files.clips] == [clip.id for clip in shards.clips]
    assert main([str(data), "--out", str(data)]) == 2
    assert "holds no shards; give --out a new folder" in capsys.readouterr().err


def test_groups_go_into_stores_and_shards(small, tmp_path):
    data = shutil.copytree(small / "data", tmp_path / "data")
    people = [("red/0.mp4", "red", "ann"), ("red/1.mp4", "red", "bob"), ("pink/0.mp4", "pink", "ann")]
    (data / "people.csv").write_text("path,label,group\n" + "".join(f"{','.join(row)}\n" for row in people))
    cuts = [(f"red/{i}.mp4", name, n * 0.2, n * 0.2 + 0.2) for i in (0, 1) for n, name in enumerate(("on", "off"))]
    (data / "cuts.csv").write_text("path,label,start,end\n" + "".join(f"{p},{c},{s},{e}\n" for p, c, s, e in cuts))
    for name, source in (("people", "the list's column group"), ("cuts", "the videos that they are cut out of")):
        prepare(PrepareConfig(data=str(data / f"{name}.csv"), out=str(tmp_path / name), workers=0))
        pack(tmp_path / name, tmp_path / f"{name}-shards")
        expected = find_groups(open_dataset(data / f"{name}.csv"), data, None)
        assert expected.source == source
        for place in (name, f"{name}-shards"):
            found = find_groups(open_dataset(tmp_path / place), tmp_path / place, None)
            assert found.of.tolist() == expected.of.tolist() and found.source == source


def test_clips_cut_out_of_videos_are_left_out_and_told(small, tmp_path, capsys):
    data = shutil.copytree(small / "data", tmp_path / "data")
    (data / "cuts.csv").write_text("path,label,start,end\nred/0.mp4,red,0,0.2\npink/0.mp4,pink,,\n")
    assert main([str(data / "cuts.csv"), "--out", str(tmp_path / "out")]) == 0
    assert "it is cut out of a video; make a frame store of it first" in capsys.readouterr().out


def test_folders_of_frames_are_left_out_and_told(small, tmp_path, capsys):
    data = shutil.copytree(small / "data", tmp_path / "data")
    extract(data / "red" / "frames", 2, "{:06d}.jpg")
    assert main([str(data), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "1 clips left out" in printed and f"{data}/red/frames: it is a folder of frames; make" in printed
    (bad,) = json.loads((tmp_path / "out/report.json").read_text())["bad"]
    assert bad["source"] == f"{data}/red/frames" and bad["id"] == "red/frames" and bad["class"] == "red"


def test_names_that_no_place_in_a_shard_has_are_packed_all_the_same(small, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    names = ["v_1.c01-x", "v 2.mp4~", "plain", "v3.MP4", f"v4.{'x' * 120}"]
    for name in names:
        shutil.copy(small / "data" / "red" / "0.mp4", data / name)
    (data / "list.txt").write_text("".join(f"{name}\tred\n" for name in names))
    assert pack(data / "list.txt", tmp_path / "out")["bad"] == []
    clips = open_dataset(tmp_path / "out")
    whole = open_dataset(data / "list.txt").read(0, SAMPLE)
    assert sorted(clip.id for clip in clips.clips) == sorted(names)
    assert all(torch.equal(clips.read(i, SAMPLE), whole) for i in range(len(names)))


def test_a_clip_too_large_for_a_shard_is_left_out_and_told(small, tmp_path, capsys):
    data = shutil.copytree(small / "data", tmp_path / "data")
    with (data / "red" / "long.mp4").open("wb") as file:
        file.truncate(2**33)  # a hole, which takes no space
    assert main([str(data), "--out", str(tmp_path / "out")]) == 0
    assert "long.mp4: it is larger than the 8 GB" in capsys.readouterr().out


def test_a_clip_that_changes_while_it_is_packed_is_told(small, tmp_path, monkeypatch):
    data, deal = shutil.copytree(small / "data", tmp_path / "data"), writer._deal

    def grow(members, most):
        with (data / "red" / "0.mp4").open("ab") as file:
            file.write(b"more")
        return deal(members, most)

    monkeypatch.setattr(writer, "_deal", grow)
    with pytest.raises(
        D2STError, match=r"red/0\.mp4' cannot be packed \(it changed while it was packed\); start again"
    ):
        pack(data, tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(D2STError, match="some megabytes, and shard_mb is nan"):
        pack(data, tmp_path / "out", shard_mb=math.nan)


def test_damage_is_told_with_the_place(small, packed, tmp_path):
    copy = shutil.copytree(packed, tmp_path / "copy")
    clips = open_dataset(copy)
    last = max(range(len(clips)), key=lambda i: (span(clips.clips[i].path).file, span(clips.clips[i].path).start))
    shard = span(clips.clips[last].path).file
    shard.write_bytes(shard.read_bytes()[: span(clips.clips[last].path).start + 10])
    with pytest.raises(VideoError, match=r"@\d+\+\d+\.mp4' cannot be read: the shard ends before the clip does"):
        clips.read(last, SAMPLE)
    shard.unlink()
    with pytest.raises(VideoError, match="no such file"):
        clips.read(last, SAMPLE)
    index = json.loads((copy / "index.json").read_text())
    index["clips"][0]["suffix"] = "/../../../etc/passwd"
    (copy / "index.json").write_text(json.dumps(index))
    with pytest.raises(D2STError, match="is damaged"):
        open_dataset(copy)
    with pytest.raises(ValueError, match="no place in a shard"):
        member_path(shard, -1, 5, ".mp4")


def test_damaged_shards_and_indices_are_sentences_or_read(small, tmp_path):
    prepare(PrepareConfig(data=str(small / "data"), out=str(tmp_path / "store"), workers=0, short_side=SIDE))
    pack(tmp_path / "store", tmp_path / "packed", shard_mb=1)
    index, whole = tmp_path / "packed/index.json", open_dataset(tmp_path / "packed").clips[0].path
    text, shard, place = index.read_bytes(), span(whole).file.read_bytes(), span(whole).start
    header = shard[place + 8 : place + 8 + int.from_bytes(shard[place : place + 8], "little")]
    assert header in shard
    rng, end, results = random.Random(5), time.monotonic() + 2, []
    pieces = [b"5", b"[]", b"{}", b"null", b'"x"', b"-1", b"1e999", b"9" * 30, b"[" * 400, b"NaN", b"true"]

    def damaged(data: bytes) -> bytes:
        values = list(re.finditer(rb'"[^"]*"|[0-9.]+|\{\}|\[[0-9, ]*\]', data))
        found = rng.choice(values)
        return data[: found.start()] + rng.choice(pieces) + data[found.end() :]

    while time.monotonic() < end:
        index.write_bytes(damaged(text) if rng.random() < 0.5 else text)
        new = damaged(header) if rng.random() < 0.7 else header
        new = new[: len(header)] + b" " * (len(header) - len(new))
        span(whole).file.write_bytes(shard.replace(header, new))
        try:
            open_dataset(tmp_path / "packed", warn=False).read(0, SAMPLE)
            read_metadata(whole)
            results.append(True)
        except D2STError:
            results.append(False)
    assert {True, False} == set(results)
