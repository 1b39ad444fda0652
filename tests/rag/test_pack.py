from rag.pack import MAX_LEAD, pack
from rag.types import Chunk, Cut, Hit, Scores

TEXT = "One red fish.  Two blue fish.\n\nThree old dogs. Four birds."
SPANS = {0: (0, 13), 1: (15, 29), 2: (31, 46), 3: (47, 58)}


def words(text):
    return len(text.split())


def hit(index, score, *, document="d", start=None, end=None, text=TEXT, lead=None, **more):
    first, last = SPANS.get(index, (0, 0))
    start, end = first if start is None else start, last if end is None else end
    before = SPANS[index - 1][1] if index and index - 1 in SPANS else start
    chunk = Chunk(
        document_id=document,
        generation=1,
        index=index,
        title="",
        text=text[start:end],
        start=start,
        end=end,
        tokens=0,
        lead=text[before:start] if lead is None else lead,
        **more,
    )
    return Hit(f"{document}{index}", chunk, score, Scores(fused=score))


def test_neighbours_become_one_passage_that_reads_as_the_document():
    # Chunks 0, 1 and 2 in the order of their scores; the gaps are two spaces and a blank line.
    packed = pack([hit(1, 0.9), hit(2, 0.5), hit(0, 0.4)], budget=100, count_tokens=words)
    (passage,) = packed.passages
    assert passage.text == TEXT[0:46] == "One red fish.  Two blue fish.\n\nThree old dogs."
    assert (passage.number, passage.start, passage.end, passage.tokens) == (1, 0, 46, 9)
    assert passage.scores == Scores(fused=0.9)  # of the hit that brought the passage in
    assert [chunk.index for chunk in passage.chunks] == [0, 1, 2]
    assert (packed.tokens, packed.cuts) == (9, ())


def test_repeated_sentences_of_neighbours_appear_once():
    # Chunk 1 begins with "Two blue fish.", which is the end of chunk 0.
    packed = pack(
        [hit(0, 0.9, start=0, end=29), hit(1, 0.8, start=15, end=46)],
        budget=100,
        count_tokens=words,
    )
    assert [passage.text for passage in packed.passages] == [TEXT[0:46]]


def test_chunks_that_touch_need_no_space():
    packed = pack(
        [hit(0, 0.9, start=0, end=10), hit(1, 0.8, start=10, end=29, lead="")],
        budget=100,
        count_tokens=words,
    )
    assert [passage.text for passage in packed.passages] == [TEXT[0:29]]


def test_what_is_not_adjacent_stays_apart():
    far = "a" + " " * (MAX_LEAD + 1) + "b"
    cases = (
        [hit(0, 0.9), hit(2, 0.8)],  # chunk 1 is not here
        [hit(0, 0.9), hit(1, 0.8, document="e")],
        [
            hit(0, 0.9, text=far, start=0, end=1),
            hit(1, 0.8, text=far, start=MAX_LEAD + 2, end=MAX_LEAD + 3),
        ],
    )
    for hits in cases:
        passages = pack(hits, budget=100, count_tokens=words).passages
        assert [(p.number, p.text) for p in passages] == [
            (1, hits[0].chunk.text),
            (2, hits[1].chunk.text),
        ]


def test_a_gap_of_the_limit_is_still_merged():
    wide = "a" + " " * MAX_LEAD + "b"
    hits = [
        hit(0, 0.9, text=wide, start=0, end=1),
        hit(1, 0.8, text=wide, start=MAX_LEAD + 1, end=MAX_LEAD + 2, lead=" " * MAX_LEAD),
    ]
    assert [p.text for p in pack(hits, budget=9, count_tokens=words).passages] == [wide]


def test_passages_stand_in_the_order_of_their_best_hit():
    # Run (2, 3) is ranked by its second hit, 0.9; other document 0.5; chunk 0 last.
    other = hit(0, 0.5, document="a", text="Something else.", start=0, end=15)
    packed = pack([hit(3, 0.9), other, hit(2, 0.3), hit(0, 0.2)], budget=100, count_tokens=words)
    assert [(p.number, p.document_id, p.start) for p in packed.passages] == [
        (1, "d", 31),
        (2, "a", 0),
        (3, "d", 0),
    ]


def test_a_text_seen_before_is_dropped_and_reported():
    # The copy differs in case and white space only. The better ranked one stays.
    copy = "one RED\nfish."
    packed = pack(
        [hit(0, 0.9), hit(7, 0.8, document="e", text=copy, start=0, end=13)],
        budget=100,
        count_tokens=words,
    )
    assert [p.document_id for p in packed.passages] == ["d"]
    assert packed.cuts == (Cut("1 hits", "its text is in the context already"),)


def test_the_budget_is_spent_by_rank():
    # 3 words each, then 3 + title. 7 hold two; the third would fit into no rest of 1.
    packed = pack([hit(2, 0.9), hit(0, 0.8), hit(1, 0.7)], budget=7, count_tokens=words)
    assert [(p.start, p.text) for p in packed.passages] == [
        (31, "Three old dogs."),
        (0, "One red fish."),
    ]
    assert packed.cuts == (Cut("1 hits", "the context holds 7 tokens"),)
    assert packed.tokens == 6


def test_a_shorter_hit_does_not_overtake_a_longer_one():
    # 4 tokens: the best takes 3, the second wants 3, the third would fit with its 2? No: rank
    # decides, both are cut.
    packed = pack([hit(0, 0.9), hit(2, 0.8), hit(3, 0.7)], budget=5, count_tokens=words)
    assert [p.start for p in packed.passages] == [0]
    assert packed.cuts == (Cut("2 hits", "the context holds 5 tokens"),)


def test_a_budget_counts_title_and_headings_too():
    titled = Chunk("d", 1, 0, "A title", "One red fish.", 0, 13, 0, headings=("Top",))
    hits = [Hit("d0", titled, 1.0, Scores())]
    # "A title > Top" and the text: 4 + 3 words.
    assert len(pack(hits, budget=7, count_tokens=words).passages) == 1
    assert pack(hits, budget=6, count_tokens=words).passages == ()


def test_no_hits_make_an_empty_context():
    packed = pack([], budget=10, count_tokens=words)
    assert (packed.passages, packed.tokens, packed.cuts) == ((), 0, ())


def test_a_place_late_in_a_passage_has_its_own_page_and_headings():
    packed = pack(
        [hit(0, 0.9, page=1, headings=("Fish",)), hit(1, 0.8, page=2, headings=("Fish", "Blue"))],
        budget=100,
        count_tokens=words,
    )
    (passage,) = packed.passages
    assert (passage.page, passage.headings) == (1, ("Fish",))
    assert passage.place(3) == (1, ("Fish",))
    assert passage.place(14) == (1, ("Fish",))  # the gap belongs to what is before it
    assert passage.place(15) == (2, ("Fish", "Blue"))
    assert passage.place(29) == (2, ("Fish", "Blue"))
