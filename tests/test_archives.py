"""Archives as data sets are distributed: detected, with the command that unpacks them, and unpacked without leaving."""

import gzip
import io
import math
import random
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from d2st.data.archives import is_archive
from d2st.data.archives.__main__ import main
from d2st.data.archives.unpack import Limits, unpack
from d2st.data.datasets import open_dataset
from d2st.errors import D2STError

FILES = {"kick/a.avi": b"a" * 3000, "hit/b c.avi": b"b" * 70000}


def _zip(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


def _tar(path: Path, mode: str = "w:gz", files: dict[str, bytes] = FILES, *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, mode) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
        for member in more:
            file.addfile(member)
    return path


def _content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_archives_are_unpacked_and_unpacking_goes_on_where_it_was(tmp_path, name):
    mode = {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}.get(name.rpartition(".")[2])
    archive = _tar(tmp_path / name, mode) if mode else _zip(tmp_path / name)
    assert is_archive(archive)
    assert unpack(archive, tmp_path / "out") == (2, 0)
    assert _content(tmp_path / "out") == FILES
    (tmp_path / "out/kick/a.avi").write_bytes(b"half")
    assert unpack(archive, tmp_path / "out") == (1, 1)
    assert _content(tmp_path / "out") == FILES


def _cut(archive: Path, name: str, size: int) -> list[Path]:
    data, pieces = archive.read_bytes(), []
    for i, start in enumerate(range(0, len(data), size)):
        pieces.append(archive.with_name(f"{name}{i:02d}"))
        pieces[-1].write_bytes(data[start : start + size])
    archive.unlink()
    return pieces


def test_ssv2s_numbered_pieces_are_one_archive(tmp_path):
    files = {f"20bn-something-something-v2/{i}.webm": random.Random(i).randbytes(5000) for i in range(5)}
    pieces = _cut(_tar(tmp_path / "whole", files=files), "20bn-something-something-v2-", 3000)
    assert len(pieces) > 2 and all(map(is_archive, pieces))
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert _content(tmp_path / "out") == files
    with pytest.raises(
        D2STError, match=r"v2-00' cannot be unpacked .* the pieces '.*v2-00' to '.*' are here: download"
    ):
        unpack(pieces[:-2], tmp_path / "again")
    with pytest.raises(D2STError, match=r"The pieces before '.*v2-02' are missing"):
        unpack(pieces[2:], tmp_path / "again")
    with pytest.raises(D2STError, match=r"The piece between '.*v2-01' and '.*v2-03' is missing"):
        unpack([*pieces[:2], *pieces[3:]], tmp_path / "again")


def test_pieces_with_letters_and_with_three_digits(tmp_path):
    pieces = _cut(_tar(tmp_path / "whole", files={"a.avi": random.Random(0).randbytes(12000)}), "a.tar.gz.", 100)
    assert len(pieces) > 101
    for i, piece in enumerate(pieces):
        pieces[i] = piece.rename(tmp_path / f"a.tar.gz.{i:03d}")
    assert unpack(pieces, tmp_path / "digits") == (1, 0)
    for i, piece in enumerate(pieces):
        pieces[i] = piece.rename(tmp_path / f"a.tar.gz.{chr(97 + i // 26)}{chr(97 + i % 26)}")
    assert unpack(pieces, tmp_path / "letters") == (1, 0)
    with pytest.raises(D2STError, match=r"The piece between '.*az' and 'a.tar.gz.bb' is missing"):
        unpack(pieces[:26] + pieces[27:], tmp_path / "again")


@pytest.mark.parametrize("name", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "C:/out.txt", "..\\out.txt"])
def test_members_cannot_leave_their_folder(tmp_path, name):
    (tmp_path / "in").mkdir()
    for archive in (_zip(tmp_path / "a.zip", {name: b"x"}), _tar(tmp_path / "a.tar", "w", {name: b"x"})):
        before = _content(tmp_path)
        with pytest.raises(D2STError, match="leaves its folder"):
            unpack(archive, tmp_path / "in/out")
        assert _content(tmp_path).keys() - before.keys() <= {"a.tar"}


def test_links_and_devices_are_not_made(tmp_path, caplog):
    link, device = tarfile.TarInfo("kick/link"), tarfile.TarInfo("kick/device")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    unpack(_tar(tmp_path / "a.tar", "w", FILES, link, device), tmp_path / "out")
    assert "2 links and devices in archive" in caplog.text
    with zipfile.ZipFile(_zip(tmp_path / "a.zip"), "a") as file:
        member = zipfile.ZipInfo("kick/link")
        member.external_attr = 0o120777 << 16
        file.writestr(member, "/etc/passwd")
    unpack(tmp_path / "a.zip", tmp_path / "out")
    assert "1 links and devices in archive" in caplog.text
    assert _content(tmp_path / "out") == FILES


def test_damaged_archives_are_told(tmp_path):
    for archive in (_zip(tmp_path / "a.zip"), _tar(tmp_path / "a.tar.gz")):
        data = bytearray(archive.read_bytes())
        data[60:90] = b"\xff" * 30
        archive.write_bytes(data)
        with pytest.raises(D2STError, match=r"cannot be unpacked .* download it again"):
            unpack(archive, tmp_path / "out")
    assert not [name for name in _content(tmp_path) if ".tmp" in name]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:3700], "truncated header"),  # the second header is from 3584 to 4096
        (lambda data: data[:3590] + b"\xff" + data[3591:], "bad checksum"),
        (lambda data: data[:3584], "it ends without the mark of its end"),
        (lambda data: data[:3584] + bytes(512) + data[4096:], "more follows behind the mark of its end"),
        (lambda data: data * 2, "more follows behind the mark of its end"),
    ],
    ids=["cut", "damaged", "cut between", "blank", "two in one"],
)
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_an_archive_that_ends_too_early_is_told(tmp_path, kind, damage, said):
    """tarfile takes what it cannot read behind the first member for the end."""
    data = damage(_tar(tmp_path / "a.tar", "w").read_bytes())
    archive = tmp_path / f"b.{kind}"
    archive.write_bytes(gzip.compress(data) if kind == "tar.gz" else data)
    with pytest.raises(D2STError, match=rf"cannot be unpacked \({said}.*\); download it again"):
        unpack(archive, tmp_path / "out")


def test_nothing_is_kept_of_a_damaged_tar_archive(tmp_path):
    """Its checksum comes at the end, behind files that are wrong and of the right size."""
    files = {f"kick/{i}.avi": random.Random(i).randbytes(700_000) for i in range(4)}
    archive, out = _tar(tmp_path / "a.tar.gz", files=files), tmp_path / "out"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:400_000] + bytes([whole[400_000] ^ 0xFF]) + whole[400_001:])
    with pytest.raises(D2STError, match=r"CRC check failed .* download it again"):
        unpack(archive, out)
    archive.write_bytes(whole)
    assert unpack(archive, out) == (4, 0) and _content(out) == files


def test_what_is_no_archive():
    for name in ("a.avi", "train_few_shot.txt", "78687.webm", "20bn-something-something-v2", "kick.tar.mp4"):
        assert not is_archive(Path(name))


@pytest.mark.parametrize(
    ("names", "command"),
    [
        (["UCF101.rar"], "cd {root} && unrar x -o- UCF101.rar"),
        (["brush_hair.rar", "cartwheel.rar"], 'cd {root} && for f in *.rar; do unrar x -o- "$f"; done'),
        (["my videos.7z"], "cd {root} && 7z x -aos 'my videos.7z'"),
        (["part_0.tar.gz", "part_1.tar.gz"], "python -m d2st.data.archives {root} --out {root}"),
        (["20bn-something-something-v2-00"], "python -m d2st.data.archives {root} --out {root}"),
    ],
)
def test_the_command_that_unpacks_is_told(tmp_path, names, command):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    for split in (None, "ucf101"):
        with pytest.raises(D2STError) as caught:
            open_dataset(tmp_path, split)
        assert str(caught.value).endswith(f"unpack with: {command.format(root=tmp_path)}")
    if len(names) == 1:
        with pytest.raises(D2STError, match=r"is an archive. Archives that are not unpacked: 1 \('"):
            open_dataset(tmp_path / names[0])


def test_the_command_line(tmp_path):
    (tmp_path / "parts").mkdir()
    _zip(tmp_path / "parts/a.zip")
    (tmp_path / "parts/b.rar").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-m", "d2st.data.archives", tmp_path / "parts", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "a.zip: 2 files written, 0 kept." in done.stdout
    assert "unrar x -o- b.rar" in done.stderr and _content(tmp_path / "out") == FILES
    assert main([str(tmp_path / "parts/a.zip"), "--out", str(tmp_path / "out")]) == 0
    assert main([str(tmp_path / "out"), "--out", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_more_than_an_archive_can_hold_is_not_unpacked(tmp_path, kind):
    archive, files = tmp_path / f"a.{kind}", {f"{i}.avi": bytes(2**22) for i in range(4)}
    _zip(archive, files) if kind == "zip" else _tar(archive, files=files)
    limits = Limits(least=2**22)
    with pytest.raises(D2STError, match=r"holds more than 4 MB .* raise --most-times"):
        unpack(archive, tmp_path / "out", limits)
    assert len(_content(tmp_path / "out") if (tmp_path / "out").exists() else ()) == (kind == "tar.gz")
    assert unpack(archive, tmp_path / "out", Limits(ratio=1e6))[0]
    with pytest.raises(D2STError, match=r"or 0 files"):
        unpack(archive, tmp_path / "out", Limits(files=0))
    unpack(archive, tmp_path / "all", Limits(ratio=math.inf))
    with pytest.raises(D2STError, match="nan bytes for each byte of an archive are none"):
        Limits(ratio=math.nan)


def test_headers_of_any_size_are_not_read(tmp_path):
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=tarfile.PAX_FORMAT) as file:
        member = tarfile.TarInfo("a.avi")
        member.pax_headers = {"comment": "0" * 2**20}
        file.addfile(member)
    begin = time.process_time()
    with pytest.raises(D2STError, match=r"a header has \d+ bytes"):
        unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert time.process_time() - begin < 1


def test_videos_may_be_as_large_as_they_are(tmp_path):
    data = random.Random(0).randbytes(2**20)
    archive = _tar(tmp_path / "a.tar.gz", files={f"{i}.avi": data for i in range(3)})
    assert unpack(archive, tmp_path / "out", Limits(least=0)) == (3, 0)


def test_names_of_any_length_do_not_stop_the_others(tmp_path):
    names = [
        "a" * 251 + ".avi",
        "b/" + "\u00e9" * 120 + ".avi",
        "c" * 300 + ".avi",
        "kick/a.avi",
        "kick/a.avi/b.avi",
        "z.avi",
    ]
    files = dict.fromkeys(names, b"x")
    for archive in (_zip(tmp_path / "a.zip", files), _tar(tmp_path / "a.tar", "w", files)):
        out = tmp_path / archive.suffix
        with pytest.raises(D2STError, match=r"^2 members of archive .* cannot be written.* 4 other files were written"):
            unpack(archive, out)
        assert set(_content(out)) == set(names) - {names[2], names[4]}


def test_a_member_without_a_name_is_one_sentence(tmp_path):
    _zip(tmp_path / "a.zip", {"a.avi": b"a", "QQQQ": b"a"})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes().replace(b"QQQQ", b"\0QQQ"))
    for archive in (tmp_path / "a.zip", _tar(tmp_path / "a.tar", "w", {"": b"x"})):
        with pytest.raises(D2STError, match="a member without a name"):
            unpack(archive, tmp_path / "out")


def test_damaged_archives_are_sentences_or_unpacked(tmp_path):
    whole = [_zip(tmp_path / "a.zip"), *(_tar(tmp_path / f"a.tar.{kind}", f"w:{kind}") for kind in ("gz", "bz2", "xz"))]
    whole.append(_tar(tmp_path / "a.tar", "w"))
    contents, rng, end, told = [archive.read_bytes() for archive in whole], random.Random(1), time.monotonic() + 2, 0
    while time.monotonic() < end:
        number = rng.randrange(len(whole))
        data = bytearray(contents[number])
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        whole[number].write_bytes(data[: rng.choice([None, rng.randrange(len(data))])])
        try:
            unpack(whole[number], tmp_path / "out")
        except D2STError:
            told += 1
    assert told


def test_thousands_of_empty_files_are_quick(tmp_path):
    archive = _zip(tmp_path / "a.zip", {f"{i}.avi": b"" for i in range(1000)})
    begin = time.process_time()
    assert unpack(archive, tmp_path / "out") == (1000, 0)
    assert time.process_time() - begin < 2
