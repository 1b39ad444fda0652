"""Where MTEB is not installed."""

import sys

import pytest

from rag.errors import MissingExtra
from services.eval_command import tasks_of_mteb


def test_its_absence_names_the_cure(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("eval.mteb_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtra, match=r'pip install "ragstone\[mteb\]"'):
        tasks_of_mteb(["STS12"], home=tmp_path)
