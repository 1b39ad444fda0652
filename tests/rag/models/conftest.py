import pytest

from tests import tiny_models


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folders of the tiny models by name, each built once and never written to by a test."""
    root = tmp_path_factory.mktemp("tiny")
    names = ("bge", "reranker", "qwen2", "llama", "gpt_neox", "gpt2")
    return {name: getattr(tiny_models, name)(root / name) for name in names}


@pytest.fixture(scope="session")
def lm_cache(tmp_path_factory):
    """Where the tiny LMs are kept as OpenVINO has them: converting one takes seconds."""
    return tmp_path_factory.mktemp("lm-cache")
