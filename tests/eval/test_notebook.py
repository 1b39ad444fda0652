"""The notebooks run from top to bottom as they are committed, without outputs."""

import csv
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from eval import datasets
from tests.tiny_models import qwen2

FOLDER = Path(datasets.__file__).parent / "notebooks"


def committed(name):
    return nbformat.read(FOLDER / name, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def run(name, folder, monkeypatch):
    """The notebook, run in a folder of its own."""
    paths = [str(FOLDER.parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        committed(name), timeout=300, kernel_name="python3", resources=resources
    )
    return code_cells(client.execute())


def printed(cells):
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream")


@pytest.mark.parametrize("name", [path.name for path in FOLDER.glob("*.ipynb")])
def test_they_are_committed_without_outputs(name):
    notebook = committed(name)
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None


def test_evaluation(tmp_path, monkeypatch):
    cells = run("evaluation.ipynb", tmp_path, monkeypatch)
    said = printed(cells)
    assert "hybrid dbsf, reranked 20" in said
    assert "so many questions can see a difference of" in said
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    assert list((tmp_path / "ragstone-eval").glob("retrieval-lights-*/values.jsonl"))


def test_scoring_from_documents(tmp_path, monkeypatch):
    """Without a language model: the answers are right, and a bad row is among the errors."""
    monkeypatch.setenv("SCORING_CONFIG", str(FOLDER / "scoring.yml"))
    said = printed(run("scoring.ipynb", tmp_path, monkeypatch))
    assert "2,900 feet" in said
    assert "1811" in said  # of the conversation
    assert "5 rows: 4 in predictions.csv, 1 in errors.csv" in said
    with (tmp_path / "scoring-out" / "predictions.csv").open(newline="", encoding="utf8") as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]


@pytest.mark.skipif("RAG_SOAK_NOTEBOOK" not in os.environ, reason="`make soak` runs it")
def test_scoring_with_a_language_model(tmp_path, monkeypatch):
    """A tiny one talks nonsense; what is checked is that texts are continued."""
    monkeypatch.setenv("SCORING_CONFIG", str(FOLDER / "scoring.yml"))
    model = qwen2(tmp_path / "qwen2", window=4096)
    monkeypatch.setenv("RAG_GENERATOR", str(model))
    said = printed(run("scoring.ipynb", tmp_path, monkeypatch))
    assert "'0': 'A lighthouse is" in said
    assert "5 rows: 4 in predictions.csv, 1 in errors.csv" in said
