"""What verbs print for people."""

from d2st.eval_table import print_result
from d2st.spot.output import print_segments
from d2st.spot.segments import Segment


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
