"""The notebook of the examples runs from top to bottom."""

from __future__ import annotations

import pytest

from .conftest import MODELS

nbformat = pytest.importorskip("nbformat", reason="the package nbclient is not installed")
nbclient = pytest.importorskip("nbclient", reason="the package nbclient is not installed")
pytest.importorskip("matplotlib", reason="the package matplotlib is not installed")


def test_the_notebook_runs() -> None:
    path = MODELS.parent / "examples" / "python" / "tour.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
