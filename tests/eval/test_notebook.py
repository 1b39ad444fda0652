"""The notebook runs from top to bottom as it is committed, without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from eval import datasets

PATH = Path(datasets.__file__).parent / "notebooks" / "evaluation.ipynb"


@pytest.fixture
def committed():
    return nbformat.read(PATH, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_committed_without_outputs(committed):
    nbformat.validate(committed)
    for cell in code_cells(committed):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_it_runs(committed, tmp_path, monkeypatch):
    paths = [str(PATH.parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    folder = {"metadata": {"path": str(tmp_path)}}
    run = NotebookClient(committed, timeout=300, kernel_name="python3", resources=folder).execute()
    outputs = [output for cell in code_cells(run) for output in cell.outputs]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output.data for output in outputs if "data" in output]
    assert "hybrid dbsf, reranked 20" in printed
    assert "so many questions can see a difference of" in printed
    assert any("image/png" in data for data in shown)
    assert list((tmp_path / "ragstone-eval").glob("retrieval-lights-*/values.jsonl"))
