"""The YAML file of batch scoring."""

from pathlib import Path

import pytest

import eval as evaluation
from rag.errors import InvalidInput, NotFound
from rag.sampling import Sampling
from rag.scoring import Scoring
from services.score_batch import Batching
from services.score_config import ScoreConfig, read_config

EXAMPLE = Path(evaluation.__path__[0]) / "notebooks" / "scoring.yml"


def written(tmp_path, text):
    path = tmp_path / "config.yml"
    path.write_text(text, "utf8")
    return path


def test_the_example_that_is_shipped():
    found = read_config(EXAMPLE)
    assert found.batching == Batching(10, 3, -1, 300, "predictions.csv")
    assert found.scoring == Scoring(Sampling(), True, "default", False)


def test_every_key_means_something(tmp_path):
    found = read_config(written(tmp_path, """
        mini_batch_size: 4
        retry_settings: {max_retries: 1, timeout: 2.5}
        error_threshold: 7
        output_file_name: out.csv
        logging_level: info
        parameters: {temperature: 0.7, top_p: 0.9, max_new_tokens: 24, do_sample: true, seed: 3,
                     return_full_text: true}
        collection: books
    """))  # fmt: skip
    assert found.batching == Batching(4, 1, 7, 2.5, "out.csv")
    assert found.scoring == Scoring(Sampling(0.7, 0.9, 24, True, 3), True, "books", True)
    assert found.level == 20


def test_options_win_over_the_file(tmp_path):
    found = read_config(written(tmp_path, "mini_batch_size: 4\nparameters: {temperature: 0.7}\n"))
    now = found.with_options(
        mini_batch_size=None, retries=0, temperature=0.2, return_full_text=True, collection="c"
    )
    assert now.batching == Batching(4, 0, -1)
    assert now.scoring == Scoring(Sampling(0.2), True, "c", True)
    assert ScoreConfig().with_options(timeout=3.0).batching.timeout == 3.0


def test_retrieval_may_be_turned_off_for_a_named_collection(tmp_path):
    assert not read_config(written(tmp_path, "retrieval: false\ncollection: c")).scoring.retrieval
    assert read_config(written(tmp_path, "retrieval: true")).scoring.collection == "default"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("mini_batch: 3", "there is no key 'mini_batch'", "mini_batch_size"),
        ("settings: {colour: red}", "there is no key 'colour'", "retry_settings"),
        ("mini_batch_size: 0", "mini_batch_size: Input should be greater", ""),
        ("mini_batch_size: many", "mini_batch_size: Input should be a valid integer", ""),
        ("output_action: summary_only", "output_action", "own line"),
        ("parameters: {temprature: 1}", "there is no key 'parameters.temprature'", ""),
        ("output_file_name: ../x.csv", "output_file_name", ""),
        ("output_file_name: errors.csv", "where failed rows go", ""),
        ("a: [", "is no YAML", ""),
        ("just text", "holds no keys", "mini_batch_size"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, said, hint):
    with pytest.raises(InvalidInput, match=r"config\.yml") as raised:
        read_config(written(tmp_path, text))
    assert said in raised.value.message
    assert hint in raised.value.hint


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(NotFound, match="no file"):
        read_config(tmp_path / "none.yml")
