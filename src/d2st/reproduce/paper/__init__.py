"""The paper's numbers, one YAML file a table: arXiv 2312.01431 (ICCV 2025), main text and supplement.

A file has ``table``, ``title``, ``columns`` and ``rows``; ``numbers`` of a row go with the columns. A column is
accuracy in percent (5-way, mean over 10,000 test episodes) or has a ``unit``. What ``setting``, a row and a column
say together is how a cell can be run again: ``dataset``, ``backbone``, ``method``, ``shot``, the ``shots`` of its
test, and further ``flags`` of ``d2st train``; ``columns`` of a row is what it says in single columns alone. In
full-shot cells ``top`` (1: Acc@1) stands for ``shot``. A row without ``method`` is there to compare with.
"""

from pathlib import Path

SOURCE = "arXiv 2312.01431 (ICCV 2025)"
TABLES = ("1", "2", "4", "5", "6", "7", "8", "9", "10", "11", "12")


def read(table: str) -> dict:
    """A table of the paper, by its number."""
    import yaml

    return yaml.safe_load((Path(__file__).parent / f"table{table}.yaml").read_text(encoding="utf-8"))
