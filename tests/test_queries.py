"""Clips that commands are asked about are found as those of a dataset."""

from pathlib import Path

import clips
import pytest

from d2st.commands.visualize import support_clips
from d2st.data.datasets import DataWarning, query_files
from d2st.data.walk import clips_in
from d2st.errors import D2STError


@pytest.fixture
def root(tmp_path) -> Path:
    from PIL import Image

    root = tmp_path / "q"
    for name in ("b/f0", "b/f1.frames"):
        (root / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(clips.picture(i)).save(root / name / f"{i:05d}.png")
    for name in ("q1.mp4", "._q1.mp4", ".hidden.mp4", "b/notes.txt", "__MACOSX/q1.mp4", "b/q2.MOV"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_videos_and_folders_of_frames_are_found_alike(root, tmp_path):
    assert query_files([root / "b/f0"]) == [root / "b/f0"]
    assert query_files([str(root / "b")]) == [root / "b/f0", root / "b/f1.frames", root / "b/q2.MOV"]
    assert query_files([root]) == [root / "b/f0", root / "b/f1.frames", root / "b/q2.MOV", root / "q1.mp4"]
    assert query_files([root / "._q1.mp4"]) == [root / "._q1.mp4"]  # who names it means it
    assert clips_in(root) == [root / "q1.mp4"]
    assert [clip.path.name for clip in support_clips(root / "b").clips] == ["f0", "f1.frames", "q2.MOV"]
    assert [clip.path.name for clip in support_clips(root / "b/f1.frames").clips] == ["f1.frames"]


def test_links_are_followed_and_told_where_they_lead_back(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.avi").write_bytes(b"x")
    (root / "more").symlink_to(tmp_path / "elsewhere")
    (root / "b/back").symlink_to(root)
    with pytest.warns(DataWarning, match="leads back"):
        assert root / "more/c.avi" in query_files([root])


def test_columns_of_a_list_that_are_not_read_are_named(root):
    (root / "new.csv").write_text("path,start_time,end_time\nq1.mp4,1.0,2.5\n")
    with pytest.warns(DataWarning, match="columns that are not read: 'start_time', 'end_time'"):
        assert query_files([root / "new.csv"]) == [root / "q1.mp4"]


def test_what_is_no_query_is_a_sentence(root, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "store/clips").mkdir(parents=True)
    (tmp_path / "store/clips.lock").touch()
    for path, words in (
        (tmp_path / "gone", "does not exist"),
        (tmp_path / "empty", "holds no video files"),
        (tmp_path / "store", "is a frame store"),
        ("x" * 5000, "does not exist"),
        ("a\0b", "does not exist"),
    ):
        with pytest.raises(D2STError, match=words):
            query_files([path])
