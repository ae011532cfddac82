"""docs/notebook.ipynb runs, on fewer clips and episodes, and is committed with its outputs."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FILE = Path(__file__).parent.parent / "docs" / "notebook.ipynb"
SHORTER = {"EPISODES": 2, "CLIPS": 2, "EVERY": 20, "TESTS": 10}


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_runs_from_top_to_bottom():
    notebook = nbformat.read(FILE, 4)
    for name, value in SHORTER.items():
        before = [cell.source for cell in notebook.cells]
        for cell in notebook.cells:
            cell.source = re.sub(rf"^{name} = \d+", f"{name} = {value}", cell.source, flags=re.MULTILINE)
        assert [cell.source for cell in notebook.cells] != before, f"the notebook does not set {name} any more"
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    text = "".join(output.get("text", "") for output in outputs(notebook))
    assert "2 episodes; the adapter is in best" in text and "answer: " in text
    pictures = [output for output in outputs(notebook) if "image/jpeg" in output.get("data", {})]
    assert len(pictures) == 2


def test_is_committed_with_outputs_that_are_small_and_name_no_machine():
    text = FILE.read_text()
    notebook = nbformat.reads(text, 4)
    nbformat.validate(notebook)
    kinds = {output.output_type for output in outputs(notebook)}
    assert kinds <= {"stream", "display_data", "execute_result"} and len(outputs(notebook)) > 8
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert len(text) < 300_000 and not re.search(r"/(home|root|tmp|Users)/", text)
