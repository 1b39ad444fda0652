"""One queue in front of one model."""

import random
import re
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rag.demo import documents
from rag.errors import Cancelled, ModelUnavailable, Overloaded
from rag.models.batching import (
    BULK_WAITS,
    PADDING,
    PASS_TOKENS,
    QUESTIONS_SECONDS,
    Batcher,
    BatchQueue,
    BatchStats,
    Request,
    Row,
    choose_run,
    padded_tokens,
)
from rag.models.load import ModelFiles
from rag.models.presets import embedder_preset
from rag.models.tokens import load_tokenizer, tokenize
from rag.models.torch import TorchEncoder
from rag.work import Priority, Work, working
from tests import tiny_models

INTERACTIVE, BULK = Priority


def request(lengths, *, work=None, at=0.0, group=None):
    made = Request(work or Work(), at, size=len(lengths))
    rows = [Row(made, n, f"item {n}", length, group) for n, length in enumerate(lengths)]
    made.rows = sorted(rows, key=lambda row: -row.length)
    return made


def queue(*requests, batch_tokens=1000, bulk_seconds=0.05):
    made = BatchQueue(batch_tokens=batch_tokens, bulk_seconds=bulk_seconds)
    for one in requests:
        made.add(one)
    return made


def lengths_of(batch):
    return [row.length for row in batch]


# --- which rows make a batch


def test_a_run_ends_before_the_budget_and_before_too_much_padding():
    everything = [True] * 4
    # Three rows of 300 are 900 padded tokens, four would be 1200.
    assert choose_run([300, 300, 300, 300], everything, 1000) == slice(0, 3)
    # With the row of 700 the padding would be 310 of 3000, with 710 it is just a tenth.
    assert choose_run([1000, 990, 700], everything[:3], 10_000) == slice(0, 2)
    assert choose_run([1000, 990, 710], everything[:3], 10_000) == slice(0, 3)
    # A tenth of 40 tokens is nothing, but another pass over a row of 4 costs more than its padding.
    assert choose_run([20, 4], everything[:2], 10_000) == slice(0, 2)
    assert choose_run([5000], [True], 10) == slice(0, 1), "a row longer than the budget runs alone"


def test_a_run_has_most_of_the_wanted_rows_then_most_tokens():
    lengths = [1000, 990, 500, 495, 490]
    assert choose_run(lengths, [False, False, False, True, False], 10_000) == slice(2, 5)
    assert choose_run(lengths, [True, False, False, False, True], 10_000) == slice(0, 2)
    assert choose_run(lengths, [True, False, True, True, False], 10_000) == slice(2, 5)


@given(
    st.lists(st.tuples(st.integers(1, 600), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 3000),
)
def test_no_run_is_better_than_the_chosen_one(rows, budget):
    rows.sort(key=lambda row: -row[0])
    lengths, wanted = [row[0] for row in rows], [row[1] for row in rows]
    wanted[0] = wanted[0] or not any(wanted)

    def allowed(start, end):
        padded = (end - start) * lengths[start]
        padding = padded - sum(lengths[start:end])
        small = padding <= PASS_TOKENS or padding <= PADDING * padded
        return end == start + 1 or (padded <= budget and small)

    def gain(start, end):
        return sum(wanted[start:end]), sum(lengths[start:end])

    runs = [(s, e) for s in range(len(rows)) for e in range(s + 1, len(rows) + 1) if allowed(s, e)]
    chosen = choose_run(lengths, wanted, budget)
    assert (chosen.start, chosen.stop) in runs
    assert gain(chosen.start, chosen.stop) == max(gain(*run) for run in runs)


def test_concurrent_requests_share_a_batch():
    asked = [request([length], at=length) for length in (7, 19, 12, 9)]
    assert lengths_of(queue(*asked).take(20.0)) == [19, 12, 9, 7]


def test_only_rows_of_one_group_share_a_batch():
    waiting = queue(request([9], group="pooled"), request([9], group="tokens"), request([8]))
    groups = [{row.group for row in waiting.take(0.0)} for _ in range(3)]
    assert groups == [{"pooled"}, {"tokens"}, {None}]


def test_questions_overtake_bulk_and_bulk_gets_its_turn_after_a_second():
    bulk = request([900] * 9, work=Work(BULK), at=10.0)
    waiting = queue(bulk, request([900] * 9, at=10.5))
    assert waiting.take(10.6)[0].request is not bulk
    assert waiting.take(10.0 + BULK_WAITS)[0].request is bulk
    assert waiting.take(10.1 + BULK_WAITS)[0].request is not bulk
    assert waiting.take(10.0 + 2 * BULK_WAITS)[0].request is bulk


def test_what_began_earlier_goes_first_each_time_it_comes():
    older, newer = Work(since=1.0), Work(since=2.0)
    first, second, third = (
        request([900], work=work, at=at) for work, at in ((newer, 3.0), (newer, 4.0), (older, 5.0))
    )
    waiting = queue(first, second, third)
    assert [waiting.take(6.0)[0].request for _ in range(3)] == [third, first, second]


def test_bulk_batches_are_short_while_questions_come():
    """10,000 tokens/s are 500 tokens in the 50 ms that a bulk batch may take: five rows of 100."""
    waiting = queue(request([100] * 90, work=Work(BULK), at=100.0), batch_tokens=1000)
    waiting.add(question := request([5], at=100.0))
    assert waiting.take(100.0)[0].request is question
    tried = waiting.take(100.0)
    assert lengths_of(tried) == [100], "nothing has been measured yet"
    waiting.measured(tried, 0.01)
    assert len(waiting.take(100.0)) == 5
    assert len(waiting.take(100.0 + QUESTIONS_SECONDS)) == 5
    assert len(waiting.take(100.1 + QUESTIONS_SECONDS)) == 10, "nobody asks: full batches"


def test_no_batch_is_smaller_than_what_a_pass_costs_anyway():
    """Where launching a pass is worth 600 tokens, five rows of 100 would take as long as six."""
    rows = request([100] * 90, work=Work(BULK), at=100.0)
    waiting = BatchQueue(batch_tokens=1000, bulk_seconds=0.05, pass_tokens=600)
    for one in (rows, question := request([300, 10, 10], at=100.0)):
        waiting.add(one)
    asked = waiting.take(100.0)
    assert {row.request for row in asked} == {question}
    assert lengths_of(asked) == [300, 10, 10], "580 of padding are cheaper than another pass"
    tried = waiting.take(100.0)
    waiting.measured(tried, 1.0)
    assert len(tried) == len(waiting.take(100.0)) == 6


def test_interactive_batches_are_what_a_fifth_of_a_second_computes():
    """2,000 tokens/s are 400 tokens: four rows of 100; nobody's single row waits for ten."""
    waiting = queue(request([100] * 90), batch_tokens=1000)
    whole = waiting.take(0.0)
    assert len(whole) == 10, "nothing has been measured yet"
    waiting.measured(whole, 0.5)
    assert len(waiting.take(0.0)) == 4
    for _ in range(10):
        waiting.measured(whole, 0.01)
    assert len(waiting.take(0.0)) == 10, "a fast machine fills the batch"


def test_the_measured_speed_follows_the_machine():
    waiting = queue(request([100] * 90, work=Work(BULK)), batch_tokens=1000)
    waiting.add(request([5], at=100.0))
    waiting.take(100.0)
    # 10,000 tokens/s, then 2,000: the tenth batch at the new speed has what that allows.
    for seconds in (0.01, *[0.05] * 10):
        waiting.measured(waiting.take(100.0)[:1], seconds)
    assert len(waiting.take(100.0)) == 1


class Waiting(RuleBasedStateMachine):
    """Requests come, leave and are computed in any order; nothing is lost, doubled or starved."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.queue = queue(batch_tokens=300)
        self.waiting = []  # requests with rows in no batch, as they came
        self.rows = {}  # of each request, how many are in no batch yet
        self.bulk_since = None  # since when bulk waits for a batch
        self.last_question = float("-inf")

    @rule(
        lengths=st.lists(st.integers(1, 400), min_size=1, max_size=8),
        priority=st.sampled_from(list(Priority)),
        group=st.sampled_from("ab"),
        began=st.sampled_from([0.0, 1.0, 2.0]),
    )
    def add(self, lengths, priority, group, began):
        work = Work(priority, since=self.now - began)
        made = request(lengths, work=work, at=self.now, group=group)
        self.queue.add(made)
        self.waiting.append(made)
        self.rows[made] = list(range(len(lengths)))
        if priority is INTERACTIVE:
            self.last_question = self.now
        elif self.bulk_since is None:
            self.bulk_since = self.now

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.7, 3.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data):
        gone = data.draw(st.sampled_from(self.waiting))
        assert self.queue.drop(gone) == len(self.rows[gone])
        self._gone(gone)

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.1]))
    def compute(self, seconds):
        batch = self.queue.take(self.now)
        assert bool(batch) == bool(self.waiting)
        if not batch:
            return
        priority = batch[0].request.work.priority
        assert {row.request.work.priority for row in batch} == {priority}
        assert len({row.group for row in batch}) == 1
        assert len(batch) == 1 or padded_tokens(batch) <= 300
        same = [one for one in self.waiting if one.work.priority is priority]
        oldest = min(same, key=lambda one: (one.work.since, one.arrived))
        assert oldest in {row.request for row in batch}
        for row in batch:
            self.rows[row.request].remove(row.at)  # raises for a row that comes twice
        asked = any(one.work.priority is INTERACTIVE for one in self.waiting)
        due = self.bulk_since is not None and self.now - self.bulk_since >= BULK_WAITS
        assert (priority is INTERACTIVE) == (asked and not due)
        for request in {row.request for row in batch}:
            if not self.rows[request]:
                self._gone(request)
        self.queue.measured(batch, seconds)
        if priority is BULK:
            self._bulk_waits_from(self.now)

    @invariant()
    def everything_is_still_there(self):
        assert len(self.queue) == len(self.waiting)
        assert self.queue.tokens == sum(
            row.length for one in self.waiting for row in one.rows if row.at in self.rows[one]
        )
        for one in self.waiting:
            assert sorted(row.at for row in one.rows) == self.rows[one]

    def _gone(self, request):
        self.waiting.remove(request)
        if request.work.priority is BULK and self.bulk_since is not None:
            self._bulk_waits_from(self.bulk_since)

    def _bulk_waits_from(self, since):
        """The oldest bulk request waits since it came, or since bulk had its last batch."""
        bulk = [one.arrived for one in self.waiting if one.work.priority is BULK]
        self.bulk_since = max(since, min(bulk)) if bulk else None


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_padding_stays_below_a_tenth_on_real_text(tiny):
    """Paragraphs of the sample documents, by question (20 each) and by document."""
    tokenizer = load_tokenizer(tiny["bge"])
    sources = [source for source in documents() if source.name.endswith((".md", ".html"))]
    text = "\n\n".join(source.read(10**6).decode("utf8") for source in sources)
    paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip()]
    lengths = [len(encoding) for encoding in tokenizer.encode_batch(paragraphs)]
    assert max(lengths) > 3 * min(lengths), "of one length they would show nothing"
    draw = random.Random(7)
    for work, sizes in ((Work(), [20] * 16), (Work(BULK), [64] * 4)):
        waiting = queue(
            *(request(draw.choices(lengths, k=size), work=work) for size in sizes),
            batch_tokens=8192,
        )
        batches = list(iter(lambda waiting=waiting: waiting.take(99.0), []))
        padded = sum(map(padded_tokens, batches))
        real = sum(sum(lengths_of(batch)) for batch in batches)
        assert real > 0.9 * padded


# --- threads


class Model:
    """Doubles numbers. While `held`, a batch waits inside; what it was given is remembered."""

    def __init__(self):
        self.batches = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, items):
        self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(10)
        if 13 in items:
            raise ValueError("thirteen")
        return [2 * item for item in items]

    def hold(self, batcher):
        """Keep the model busy with one item; what is submitted then has to wait."""
        self.gate.clear()
        held = batcher.submit([1], Work())
        assert self.entered.acquire(timeout=10)
        return held


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def batcher(model):
    made = Batcher("doubling", model, length=lambda item: item, batch_tokens=1000, waiting=3)
    yield made
    model.gate.set()
    made.close()


def test_results_are_those_of_each_request_in_its_order(batcher):
    assert batcher.map([3, 500, 20]) == [6, 1000, 40]
    assert batcher.map([]) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_many_threads_get_their_own_results_and_nothing_is_computed_twice(workers):
    computed, guard = [], threading.Lock()

    def double(items):
        with guard:
            computed.extend(items)
        return [2 * item for _, item in items]

    batcher = Batcher(
        "doubling",
        double,
        length=lambda item: item[1],
        group=lambda item: item[1] % 2,
        batch_tokens=512,
        workers=workers,
        waiting=16,
    )

    def ask(number):
        draw = random.Random(number)
        for at in range(15):
            numbers = [draw.randrange(1, 300) for _ in range(draw.randrange(12))]
            with working(Work(Priority(number % 2))):
                assert batcher.map([((number, at), n) for n in numbers]) == [2 * n for n in numbers]
        return True

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, range(16)))
    batcher.close()
    stats = batcher.stats
    assert stats.rows == len(computed)
    assert stats.tokens == sum(item for _, item in computed)
    assert stats.batches <= stats.rows
    assert stats.padded_tokens >= stats.tokens
    assert (stats.waiting, stats.dropped) == (0, 0)
    assert stats.batch_tokens == 512


def test_questions_overtake_what_is_being_ingested(batcher, model):
    held = model.hold(batcher)
    ingesting = batcher.submit([900, 901, 902], Work(BULK))
    asked = batcher.submit([7], Work())
    model.gate.set()
    wait([held, ingesting, asked], timeout=10)
    assert model.batches == [[1], [7], [902], [901], [900]]


def test_what_nobody_waits_for_is_not_computed(batcher, model):
    held, work = model.hold(batcher), Work()
    with ThreadPoolExecutor() as threads:

        def ask():
            with working(work):
                return batcher.map([500, 600])

        asking = threads.submit(ask)
        other = batcher.submit([8], Work())
        with pytest.raises(TimeoutError):
            asking.result(0)
        _until(lambda: batcher.stats.waiting == 2)
        work.cancelled.set()
        # The caller returns at once, although the model is still held.
        with pytest.raises(Cancelled):
            asking.result(10)
    assert batcher.stats.waiting == 1
    assert batcher.stats.dropped == 2
    model.gate.set()
    assert (held.result(10), other.result(10)) == ([2], [16])
    assert model.batches == [[1], [8]]


def test_work_cancelled_before_it_is_handed_in_never_waits(batcher):
    work = Work()
    work.cancelled.set()
    with working(work), pytest.raises(Cancelled):
        batcher.map([5])
    assert batcher.stats.rows == 0


def test_a_cancelled_future_drops_its_rows_and_counts_as_done(batcher, model):
    model.hold(batcher)
    future = batcher.submit([500], Work())
    assert future.cancel()
    assert wait([future], timeout=10).done == {future}
    with pytest.raises(CancelledError):
        future.result()
    model.gate.set()
    assert batcher.map([4]) == [8]
    assert [500] not in model.batches


def test_cancelling_what_is_being_computed_frees_the_caller_and_harms_nobody(batcher, model):
    model.gate.clear()
    work = Work()
    first = batcher.submit([500, 900, 700], work)  # three batches, the first of them inside
    assert model.entered.acquire(timeout=10)
    work.cancelled.set()
    assert first.cancelled()
    model.gate.set()
    assert batcher.map([6]) == [12]
    assert model.batches == [[900], [6]]


def test_a_full_queue_refuses_questions_but_not_ingestion(batcher, model):
    model.hold(batcher)
    accepted = [batcher.submit([n], Work()) for n in (2, 3, 4)]
    with pytest.raises(Overloaded, match="3 requests wait for doubling"):
        batcher.submit([5], Work())
    ingesting = batcher.submit([6], Work(BULK))
    model.gate.set()
    assert [future.result(10) for future in accepted] == [[4], [6], [8]]
    assert ingesting.result(10) == [12]
    assert batcher.map([5]) == [10], "there is room again"


def test_who_is_refused_is_told_how_long_the_queue_is():
    """100 tokens took 2 s, so 1000 tokens that wait take 20 s."""
    now, gate, entered = [0.0], threading.Event(), threading.Semaphore(0)

    def slow(items):
        entered.release()
        assert gate.wait(10)
        now[0] += 2.0
        return items

    batcher = Batcher(
        "slow", slow, length=lambda n: n, batch_tokens=100, waiting=1, clock=lambda: now[0]
    )
    gate.set()
    batcher.map([100])
    gate.clear()
    assert entered.acquire(timeout=10)
    running = batcher.submit([100], Work())
    assert entered.acquire(timeout=10)
    waiting = batcher.submit([1000], Work())
    with pytest.raises(Overloaded) as refused:
        batcher.submit([1], Work())
    assert refused.value.retry_after == 20.0
    gate.set()
    assert (running.result(10), waiting.result(10)) == ([100], [1000])
    batcher.close()


def test_a_batch_that_fails_fails_its_own_requests_only(batcher, model):
    model.hold(batcher)
    unlucky = [batcher.submit(items, Work()) for items in ([13], [12, 900])]
    lucky = batcher.submit([901], Work())
    model.gate.set()
    for future in unlucky:
        with pytest.raises(ValueError, match="thirteen"):
            future.result(10)
    assert lucky.result(10) == [1802]
    assert [900] not in model.batches, "its request had failed already"
    assert batcher.map([2]) == [4], "the worker outlives it"


def test_a_model_that_loses_rows_is_an_error():
    batcher = Batcher("lossy", lambda items: items[1:], length=len, batch_tokens=9, waiting=1)
    with pytest.raises(RuntimeError, match="lossy gave 1 results for 2 items"):
        batcher.map(["a", "b"])
    batcher.close()


def test_closing_finishes_what_was_accepted_and_refuses_what_comes(batcher, model):
    model.hold(batcher)
    accepted = [batcher.submit([900, 901], Work(priority)) for priority in Priority]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    _until(lambda: _refuses(batcher))
    model.gate.set()
    closing.join(10)
    assert not closing.is_alive()
    assert [future.result(0) for future in accepted] == [[1800, 1802]] * 2
    batcher.close()


def test_a_real_encoder_behind_the_queue_gives_the_same_vectors(tiny):
    folder = tiny["bge"]
    files, tokenizer = ModelFiles(str(folder), folder, ""), load_tokenizer(folder)
    encoder = TorchEncoder(files, embedder_preset("acme/x", folder), device="cpu")
    batcher = Batcher("bge", encoder.pooled, length=len, batch_tokens=200, waiting=8)
    encodings = tokenize(tokenizer, tiny_models.CORPUS, 64)
    expected = np.concatenate([encoder.pooled([encoding]) for encoding in encodings])
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: batcher.map(encodings), range(8)))
    batcher.close()
    for vectors in found:
        np.testing.assert_allclose(np.array(vectors), expected, atol=1e-5)
    assert batcher.stats.rows == 8 * len(encodings)


def _refuses(batcher):
    try:
        batcher.submit([1], Work(BULK))
    except ModelUnavailable:
        return True
    return False


def _until(happened):
    """Give other threads their turn until something is so."""
    for _ in range(100_000):
        if happened():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it never happened")


def test_how_busy_the_workers_were():
    before = BatchStats(workers=2, busy_seconds=5.0)
    after = BatchStats(workers=2, busy_seconds=14.0)
    assert after.busy_since(before, 6.0) == 9 / 12  # of two workers' six seconds each
