"""The plain system ranks by cosine, and shares no code with what it is compared with."""

import ast
from pathlib import Path

import numpy as np

from eval import plain_system
from eval.plain_system import bundled_model, run_lines
from eval.runs import read_run


def test_the_nearest_come_first(tmp_path):
    passages = np.eye(3, dtype=np.float32)
    questions = np.array([[0, 1, 0.5], [0.9, 0.1, 0.3]], dtype=np.float32)
    lines = run_lines(["q1", "q2"], ["a", "b", "c"], questions, passages, 2)
    (tmp_path / "run.trec").write_text("".join(lines))
    run = read_run(tmp_path / "run.trec")
    assert (run.ordered("q1"), run.ordered("q2")) == (["b", "c"], ["a", "c"])
    assert run.rankings["q1"] == {"b": 1.0, "c": 0.5}
    assert run.name == "plain"


def test_many_questions_are_scored_in_blocks():
    n = plain_system.BLOCK + 3
    ids = [f"q{i}" for i in range(n)]
    same = np.ones((n, 2), dtype=np.float32)
    lines = list(run_lines(ids, ["a"], same, same[:1], 9))
    assert [line.split()[0] for line in lines] == ids


def test_it_imports_nothing_of_ragstone():
    tree = ast.parse(Path(plain_system.__file__).read_text())
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert not {name.partition(".")[0] for name in found if name} & {"rag", "services", "eval"}


def test_the_model_is_in_its_package():
    assert (Path(bundled_model()) / "model.safetensors").exists()
