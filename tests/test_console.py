"""What commands print for people."""

import csv
import io
import json
import logging
import re
import warnings

import pytest
from matplotlib.figure import Figure

from d2st.commands.check_data import show
from d2st.commands.evaluation_output import print_result
from d2st.commands.predict import distinguishing_names
from d2st.commands.spot import print_segments
from d2st.spotting.segments import Segment
from d2st.utils.console import drawable, plain_console, plain_table, printable, say, tell
from d2st.utils.files import write_png
from d2st.utils.program import program
from d2st.utils.progress import progress, video_progress
from d2st.utils.report import Report
from d2st.utils.tables import TableWriter, print_rows, safe_cell


def test_names_are_printed_as_they_are(capsys, monkeypatch) -> None:
    """rich would take "[something]" for markup and ":star:" for an emoji."""
    monkeypatch.setenv("COLUMNS", "300")
    name = "Pushing [something] :star:"
    found = {"way": 1, "shot": 1, "episodes": 1, "accuracy": 1.0, "interval": None, "per_class": {name: 1.0}}
    bad = {"id": f"{name}/0.mp4", "reason": "cut [short]"}
    print_result({"part": "test", "clips": 1, "results": [found], "bad_clips": [bad]}, (name,))
    print_segments([Segment(0, 1, name, 0.5)], "table")
    printed = capsys.readouterr().out
    assert printed.count(name) == 3 and "cut [short]" in printed


NASTY = "a\x1b[31mred\x07\rfake\nline\u202egpj.\udcff"
SHOWN = r"a\x1b[31mred\x07\x0dfake\x0aline\u202egpj.\xff"


def test_what_a_terminal_would_obey_is_shown(capsys) -> None:
    assert printable(NASTY) == SHOWN == printable(SHOWN)
    assert printable("naïve 動作 🐶 :dog: [b] $x") == "naïve 動作 🐶 :dog: [b] $x"
    assert printable("\ud800 \x9b") == r"\ud800 \x9b" and printable("a\nb", lines=True) == "a\nb"
    say(f"of '{NASTY}'")
    tell(f"of '{NASTY}'")
    printed = capsys.readouterr()
    assert printed.err == f"of '{SHOWN}'\n" and "\x1b" not in printed.out


def test_tables_show_names_whole(capsys, monkeypatch) -> None:
    long = "/".join(["a-folder-with-a-name"] * 12) + "/clip.mp4"
    for columns in ("40", "80"):
        monkeypatch.setenv("COLUMNS", columns)
        table = plain_table("clip", "answer")
        table.add_row(long, "contemporary dance")
        table.add_row(NASTY.replace("\n", ""), "x")
        plain_console().print(table)  # no terminal: one line a row, however long
        printed = capsys.readouterr().out
        assert long in printed and "contemporary dance" in printed and "…" not in printed and "\x1b" not in printed


def test_tables_fold_on_a_narrow_terminal() -> None:
    from rich.console import Console

    table, name = plain_table("clip", "answer"), "0123456789" * 9
    table.add_row(name, "clap")
    file = io.StringIO()
    Console(file=file, width=40, force_terminal=True, color_system=None).print(table)
    cells = [line.split("│")[1].strip() for line in file.getvalue().splitlines() if line.startswith("│")]
    assert "".join(cells) == name and "clap" in file.getvalue()


def test_off_a_terminal_tables_have_no_box_characters(capsys) -> None:
    table = plain_table("clip", "answer", title="Answers")
    table.add_row("clap/a.mp4", "clap")
    plain_console().print(table)
    printed = capsys.readouterr().out
    assert printed.isascii() and re.search(r"\| clap/a.mp4 \| clap +\|", printed)


def test_rows_are_printed_as_a_table_as_json_lines_and_as_csv(capsys) -> None:
    views = {
        "records": [{"clip": NASTY, "score": 0.5}],
        "csv": (["clip", "score"], [([NASTY], ["-0.500"])]),
        "table": (["clip", "likeliest"], [(NASTY, ["clap", "wave"])]),
    }
    for format, shown in (("jsonl", None), ("csv", f"clip,score\n{SHOWN},-0.500\n"), ("table", SHOWN)):
        print_rows(format, **views)
        printed = capsys.readouterr().out
        if format == "jsonl":
            assert json.loads(printed) == views["records"][0]
        else:
            assert shown in printed
    assert {"clap", "wave"} <= set(re.findall(r"\w+", printed)) and len(printed.splitlines()) >= 4


def test_progress_off_a_terminal_is_a_line_at_most_every_ten_seconds(capsys, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress("Encoding", 20, "clips") as advance:
        for _ in range(20):
            now[0] += 4.0
            advance(1, NASTY)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[0] == f"Encoding: 3/20 clips, 01:08.0 left, {SHOWN}"
    with video_progress("Watching", None) as reach:
        now[0] += 11
        reach(75.0)
    assert capsys.readouterr().err == "Watching: 01:15.0\n"


def test_what_the_package_logs_is_one_line_on_stderr(capsys, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("d2st"), "handlers", [])  # the tests' own
    log = logging.getLogger("d2st.data.somewhere")
    other = logging.StreamHandler()
    logging.getLogger().addHandler(other)  # as logging.info() of a library does
    assert program("d2st", lambda: log.warning(f"of '{NASTY}'") or 0) == 0
    logging.getLogger().removeHandler(other)
    assert capsys.readouterr().err == f"of '{SHOWN}'\n"


def test_letters_that_a_font_lacks_are_told_once(capsys, tmp_path, recwarn) -> None:
    """pytest records warnings by itself, and so they are shown by hand, as they come."""

    def draw() -> int:
        figure = Figure()
        figure.text(0.5, 0.5, "動作 ジャンプ")
        shown = warnings.showwarning
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = shown
            write_png(tmp_path / "a.png", figure)
            warnings.warn("another", UserWarning, stacklevel=1)
        return 0

    assert program("d2st", draw) == 0
    said = capsys.readouterr().err
    assert said.count("Note: The font of the pictures lacks some letters of the names, which are boxes there.") == 1
    assert "Glyph" not in said and "another" in said


def test_check_data_shows_names_as_they_are(capsys) -> None:
    part = {"classes": {":dog: [b]" + NASTY: 1}, "clips": 1, "bad": 0, "short": 0, "frames": [1, 1, 1]}
    kinds = ("bad", "short", "warnings", "duplicates", "across_parts", "problems", "notes", "reasons")
    report = {kind: [] for kind in kinds}
    report |= {"data": NASTY, "full": False, "usable": True, "parts": {"all": part}, "problems": [NASTY]}
    show(report, 8)
    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 3 and ":dog: [b]" in printed and "\x1b" not in printed


def test_no_cell_is_a_formula(capsys) -> None:
    file = io.StringIO()
    writer = TableWriter(file)
    runs = ["=1+1", "+1", "-1.mp4", "@sum", "\t=1", "\r=1", "\n=1", " =1", "＝1"]
    writer.row(["name", *runs])
    writer.row(["x;y, z"], ["-0.5", "-1e-05"])
    header, numbers = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert all(cell.startswith("'") for cell in header[1:]) and header[:2] == ["name", "'=1+1"]
    assert numbers == ["x;y, z", "-0.5", "-1e-05"]
    assert safe_cell(NASTY) == SHOWN and safe_cell("a=b-c") == "a=b-c"
    print_segments([Segment(0, 1, "=cmd", 0.5)], "csv")
    assert capsys.readouterr().out == "start,end,label,score\n0,1,'=cmd,0.5\n"
    print_segments([Segment(0, 1, NASTY, 0.5)], "jsonl")
    assert json.loads(capsys.readouterr().out)["label"] == NASTY


def test_names_are_drawn_as_they_are(tmp_path) -> None:
    """Bytes that are no UTF-8 stop matplotlib's fonts, and a dollar begins a formula."""
    from matplotlib.figure import Figure

    for name, drawn in ((NASTY, SHOWN.replace(r"\x0a", "\n")), (r"$5 or $\frac", r"$5 or $\frac"), ("ab_$", "ab_$")):
        figure = Figure()
        text = figure.text(0, 0, drawable(name))
        figure.savefig(tmp_path / "drawn.png")
        assert text._preprocess_math(text.get_text()) == (drawn, False)


def test_reports_hold_any_name(tmp_path) -> None:
    report = Report(NASTY)
    report.table(["class"], [["a|b" + NASTY]])
    text = report.write(tmp_path / "report.md").read_text(encoding="utf-8")
    assert rf"| a\|b{SHOWN} |" in text and "\x1b" not in text


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["new/a.mp4", "new/b.mp4"], ["a.mp4", "b.mp4"]),
        (["new/x/a.mp4", "new/y/a.mp4"], ["x/a.mp4", "y/a.mp4"]),
        (["/v/new/a.mp4"], ["a.mp4"]),
        (["a.mp4", "new/b.mp4"], ["a.mp4", "new/b.mp4"]),
        (["/v/a.mp4", "b.mp4"], ["/v/a.mp4", "b.mp4"]),
        (["../a.mp4", "../b.mp4"], ["a.mp4", "b.mp4"]),
        ([], []),
    ],
)
def test_clips_are_shown_by_what_sets_them_apart(paths, names):
    assert distinguishing_names(paths) == names
