"""What the labelled citations promise."""

from collections import Counter

import pytest

from eval.labelled_citations import EDITED, FILES, FOLDER, load


@pytest.fixture(params=[which for which in FILES if (FOLDER / FILES[which][0]).exists()])
def found(request):
    return load(request.param)


def test_there_are_enough_of_every_kind(found):
    kinds = Counter(one.kind for one in found)
    assert len(found) >= 150
    assert all(kinds[kind] >= 12 for kind in EDITED)
    assert all(kinds[kind] >= 5 for kind in ("verbatim", "reworded", "paraphrased"))


def test_ids_are_unique_and_pairs_are_an_edit_and_its_original(found):
    known = {one.id: one for one in found}
    assert len(known) == len(found)
    for one in found:
        if one.pair is not None:
            assert known[one.pair].pair == one.id
            assert known[one.pair].supported != one.supported


def test_a_third_of_what_the_check_is_judged_on_is_unsupported():
    found = load("test")
    share = sum(not one.supported for one in found) / len(found)
    assert 0.3 < share < 0.37


def test_passages_of_the_sample_collection_stand_in_it(lighthouse):
    texts = {}
    for one in load("test"):
        for passage in one.context.passages:
            kind, _, name = passage.document_id.partition(":")
            if kind != "demo":
                continue
            if name not in texts:
                texts[name] = lighthouse.text(name, collection="lighthouse")
            assert passage.text in texts[name]
    assert len(texts) >= 10
