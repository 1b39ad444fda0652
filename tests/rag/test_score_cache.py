"""The cache of scores against a dict that forgets nothing."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from rag.score_cache import ScoreCache

TEXTS = st.text("ab", max_size=3)
# Each with the model and question "q" or "": pairs whose plain concatenations are equal occur.
CALLS = st.lists(st.tuples(TEXTS, TEXTS, st.lists(TEXTS, max_size=3)), max_size=20)


@given(calls=CALLS, entries=st.integers(0, 5))
def test_it_gives_back_what_was_put_or_nothing(calls, entries):
    cache, put = ScoreCache(entries), {}
    for number, (model, question, passages) in enumerate(calls):
        scores = [float(number) + place / 10 for place in range(len(passages))]
        cache.put(model, question, passages, scores)
        put |= {(model, question, p): s for p, s in zip(passages, scores, strict=True)}
        assert len(cache) <= entries
        for m, q, p in put:
            assert cache.get(m, q, [p])[0] in (None, put[m, q, p])


def test_the_least_recently_used_goes_first():
    cache = ScoreCache(2)
    cache.put("m", "q", ["a", "b"], [1.0, 2.0])
    cache.get("m", "q", ["a"])  # so b is the one not used for longest
    cache.put("m", "q", ["c"], [3.0])
    assert cache.get("m", "q", ["a", "b", "c"]) == [1.0, None, 3.0]


def test_lookups_are_counted_and_asking_whether_is_none():
    cache = ScoreCache(10)
    cache.put("m", "q", ["a", "b"], [1.0, 2.0])
    cache.get("m", "q", ["a", "b", "c"])
    assert (cache.hits, cache.misses) == (2, 1)
    assert cache.knows("m", "q", "a")
    assert not cache.knows("m", "q", "c")
    assert (cache.hits, cache.misses) == (2, 1)


def test_model_question_and_passage_all_tell_scores_apart():
    cache = ScoreCache(10)
    cache.put("m", "ab", ["c"], [1.0])
    assert cache.get("m", "a", ["bc"]) == [None]
    assert cache.get("ma", "b", ["c"]) == [None]
    assert cache.get("n", "ab", ["c"]) == [None]
    assert cache.get("m", "ab", ["c"]) == [1.0]


def test_none_are_kept_of_none():
    cache = ScoreCache(0)
    cache.put("m", "q", ["a"], [1.0])
    assert (len(cache), cache.get("m", "q", ["a"])) == (0, [None])


def test_text_that_is_no_utf8_has_a_key_as_well():
    cache = ScoreCache(1)
    cache.put("m", "\ud800", ["\udfff"], [1.0])
    assert cache.get("m", "\ud800", ["\udfff"]) == [1.0]


def test_threads_never_read_another_pairs_score():
    cache = ScoreCache(50)
    start, wrong = threading.Barrier(4), []

    def work(thread: int) -> None:
        start.wait()
        for i in range(500):
            passage = f"{(thread * 7 + i) % 100}"
            cache.put("m", "q", [passage], [float(passage)])
            if cache.get("m", "q", [passage])[0] not in (None, float(passage)):
                wrong.append(passage)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(cache) == 50  # 100 passages were put: it is full and no fuller
