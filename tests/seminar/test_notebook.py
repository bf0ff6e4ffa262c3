"""The notebook of the seminar: valid, with a quick run's outputs, and every cell of it runs, at its quick sizes."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="the dev extra is not installed")
NotebookClient = pytest.importorskip("nbclient", reason="the dev extra is not installed").NotebookClient
PROJECT = Path(__file__).parents[2]
NOTEBOOK = PROJECT / "examples" / "seminar.ipynb"
pytestmark = pytest.mark.skipif(not NOTEBOOK.exists(), reason="not run from the source folder")


def shown(cell, mime: str) -> str:
    """All that the cell showed of a type."""
    return "".join(output.data.get(mime, "") for output in cell.outputs if "data" in output)


def printed(cell, stream: str) -> str:
    return "".join(output.text for output in cell.outputs if output.get("name") == stream)


SILENT = {"settings", "fit"}  # they only define
MAX_BYTES = 500_000


def test_the_notebook_is_valid_and_has_its_outputs():
    assert NOTEBOOK.stat().st_size < MAX_BYTES
    notebook = nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)], "one run, from top to bottom"
    assert {cell.id for cell in code if not cell.outputs} == SILENT
    for cell in code:
        kinds = {output.get("name", output.output_type) for output in cell.outputs}
        assert kinds <= {"stdout", "display_data", "execute_result"}, f"{cell.id}: an error, or noise on stderr"
        shown_text = printed(cell, "stdout")
        assert "/work/" not in shown_text and "/home/" not in shown_text, f"{cell.id}: a path of some machine"


@pytest.mark.slow
def test_every_cell_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("RNNDROP_QUICK", "1")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))  # this checkout's package, whichever is installed
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = {cell.id: cell for cell in notebook.cells}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.execution_count is not None, cell.id
            assert printed(cell, "stderr") == "", cell.id
    for shows_picture in ("curves", "visual"):
        assert shown(cells[shows_picture], "image/png"), shows_picture
    assert "<iframe srcdoc=" in shown(cells["visual-page"], "text/html")
    assert "ten lines of torch: " in printed(cells["written-out"], "stdout")
    assert "smallest gap: " in printed(cells["comparison"], "stdout")
    assert list(tmp_path.iterdir()) == [], "it leaves no files"
