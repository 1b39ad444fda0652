"""Micro-batching: one queue in front of one model, so that concurrent requests share its passes.

A batch is made from the head of the queue:

1. Interactive requests go before bulk ones. Bulk is not starved by questions that never end: once
   it has waited `BULK_WAITS` seconds for a batch, the next one is its.
2. The request of the oldest work of that priority is always in the batch, with as many rows as fit.
   (A question comes to its models several times; one that began earlier does not wait each time
   for all that began later.) Rows of other requests fill what is left, neighbours in length first,
   so that little is padded.
3. A batch has at most `batch_tokens` padded tokens (rows x longest). By measured speed, an
   interactive one has only what runs in `BATCH_SECONDS`: on a slow machine a large batch gains
   nothing, and each of its rows would wait for all. While questions come, a bulk batch has only
   what runs in `bulk_seconds`: a question waits for it at most so long.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Generic, TypeVar

from rag.errors import Cancelled, ModelUnavailable, Overloaded
from rag.models.crowd import Crowd
from rag.work import Priority, Work, current_work

Item = TypeVar("Item")
Result = TypeVar("Result")

PADDING = 0.1  # the share of a batch that may be padding, if it is more than `pass_tokens`
PASS_TOKENS = 128  # of a small encoder on a CPU
WINDOW_BATCHES = 4  # how many batches' worth of waiting rows are looked at for neighbours
BATCH_SECONDS = 0.2  # what an interactive batch may take
QUESTIONS_SECONDS = 2.0  # how long after a question bulk batches stay short
BULK_WAITS = 1.0  # seconds after which bulk gets its batch between questions
FORGETTING = 0.8  # weight of the past in the measured speed, per batch


@dataclass(frozen=True, slots=True)
class BatchStats:
    """What a model has computed so far, and what waits for it now.

    `tokens` are those of the items, `padded_tokens` those that the model was run on; `wait_seconds`
    and `busy_seconds` are sums over rows and over batches. `dropped` rows were cancelled, or their
    request had failed, before they were computed. A batch has at most `batch_tokens`, padding
    included.
    """

    batches: int = 0
    rows: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    dropped: int = 0
    waiting: int = 0  # requests
    wait_seconds: float = 0.0
    busy_seconds: float = 0.0
    workers: int = 1
    batch_tokens: int = 0

    def busy_since(self, before: "BatchStats", seconds: float) -> float:
        """The share of the last `seconds`, since `before` was told, that the workers computed."""
        return (self.busy_seconds - before.busy_seconds) / (self.workers * seconds)

    @property
    def padding(self) -> float:
        """The share of what was computed that was padding."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0


@dataclass(eq=False, slots=True)
class Request(Generic[Item, Result]):
    """Items that were handed in together. `rows` are those in no batch yet, longest first."""

    work: Work
    arrived: float
    rows: list["Row[Item, Result]"] = field(default_factory=list)
    results: dict[int, Result] = field(default_factory=dict)
    future: Future[list[Result]] = field(default_factory=Future)
    size: int = 0
    settled: bool = False


@dataclass(eq=False, slots=True)
class Row(Generic[Item, Result]):
    """One item: a row of a batch to be."""

    request: Request[Item, Result]
    at: int  # its position in the request
    item: Item
    length: int
    group: Hashable
    taken: bool = False


class BatchQueue(Generic[Item, Result]):
    """What waits, and which of it makes the next batch. Not thread-safe; `now` is in seconds."""

    def __init__(
        self, *, batch_tokens: int, bulk_seconds: float, pass_tokens: int = PASS_TOKENS
    ) -> None:
        self._batch_tokens = batch_tokens
        self._pass_tokens = pass_tokens
        self._bulk_seconds = bulk_seconds
        self._waiting: dict[Priority, list[Request[Item, Result]]] = {p: [] for p in Priority}
        self._question = float("-inf")  # when the last one came
        self._bulk = float("-inf")  # when bulk got its last batch
        # Each of its own: a question's few tokens say little of how fast a passage is.
        self._speeds = {priority: _Speed() for priority in Priority}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def waiting(self, priority: Priority) -> int:
        """How many requests of this priority have rows that are in no batch yet."""
        return len(self._waiting[priority])

    @property
    def tokens(self) -> int:
        """Of all rows that wait."""
        return sum(row.length for some in self._waiting.values() for r in some for row in r.rows)

    def add(self, request: Request[Item, Result]) -> None:
        """Line a request up: what belongs to older work first, then what arrived first."""
        queue = self._waiting[request.work.priority]
        insort(queue, request, key=lambda other: (other.work.since, other.arrived))
        if request.work.priority is Priority.INTERACTIVE:
            self._question = request.arrived

    def drop(self, request: Request[Item, Result]) -> int:
        """Take a request out; how many rows of it had been in no batch."""
        dropped, request.rows = len(request.rows), []
        queue = self._waiting[request.work.priority]
        if request in queue:
            queue.remove(request)
        return dropped

    def take(self, now: float) -> list[Row[Item, Result]]:
        """The next batch, longest row first; empty when nothing waits."""
        priority = self._turn(now)
        queue = self._waiting[priority]
        if not queue:
            return []
        oldest = queue[0]
        window = _window(queue, oldest.rows[0].group, WINDOW_BATCHES * self._batch_tokens)
        lengths = [row.length for row in window]
        wanted = [row.request is oldest for row in window]
        budget = self._budget(priority, now)
        batch = window[choose_run(lengths, wanted, budget, self._pass_tokens)]
        for row in batch:
            row.taken = True
        for request in {row.request for row in batch}:
            request.rows = [row for row in request.rows if not row.taken]
        self._waiting[priority] = [request for request in queue if request.rows]
        if priority is Priority.BULK:
            self._bulk = now
        return batch

    def measured(self, batch: Sequence[Row[Item, Result]], seconds: float) -> None:
        """Learn how long a batch took."""
        self._speeds[batch[0].request.work.priority].add(padded_tokens(batch), seconds)

    def _turn(self, now: float) -> Priority:
        bulk = self._waiting[Priority.BULK]
        if not self._waiting[Priority.INTERACTIVE]:
            return Priority.BULK
        if not bulk:
            return Priority.INTERACTIVE
        waits_since = max(self._bulk, min(request.arrived for request in bulk))
        return Priority.BULK if now - waits_since >= BULK_WAITS else Priority.INTERACTIVE

    def _budget(self, priority: Priority, now: float) -> int:
        """Padded tokens."""
        speed = self._speeds[priority].tokens_per_second
        if priority is Priority.INTERACTIVE:
            limit = speed * BATCH_SECONDS if speed else self._batch_tokens
        elif now - self._question <= QUESTIONS_SECONDS:
            limit = speed * self._bulk_seconds  # 0 before the first was measured
        else:
            limit = self._batch_tokens
        return min(self._batch_tokens, max(int(limit), self._pass_tokens))


class Batcher(Generic[Item, Result]):
    """One queue in front of one model. Thread-safe.

    `run` computes a batch: a result for each item, in their order. `workers` threads call it at the
    same time. `length` is an item's number of tokens, and only items of one `group` share a batch.
    At most `waiting` interactive requests wait; bulk ones are never refused, because their number
    is that of the threads that ingest. Interactive ones are in `crowd` until they are done.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        length: Callable[[Item], int],
        group: Callable[[Item], Hashable] = lambda _: None,
        batch_tokens: int,
        pass_tokens: int = PASS_TOKENS,
        workers: int = 1,
        waiting: int,
        bulk_seconds: float = 0.05,
        crowd: Crowd | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._crowd = crowd
        self._run = run
        self._length = length
        self._group = group
        self._most_waiting = waiting
        self._clock = clock
        self._queue: BatchQueue[Item, Result] = BatchQueue(
            batch_tokens=batch_tokens, bulk_seconds=bulk_seconds, pass_tokens=pass_tokens
        )
        self._changed = threading.Condition()
        self._stats = BatchStats(workers=workers, batch_tokens=batch_tokens)
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name} {number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def stats(self) -> BatchStats:
        """What was computed up to now."""
        with self._changed:
            return replace(self._stats, waiting=len(self._queue))

    def map(self, items: Sequence[Item]) -> list[Result]:
        """The results of items, in their order, computed for `current_work()`.

        Raises what the model raised; Overloaded when too many wait already; Cancelled as soon as
        the work is cancelled, without waiting for the queue; ModelUnavailable after `close`.
        """
        future = self.submit(items, current_work())
        try:
            return future.result()
        except CancelledError:
            raise Cancelled(f"Nobody waits for {self.name} any more.") from None
        finally:
            future.cancel()  # after an interrupt: what is not computed yet need not be

    def submit(self, items: Sequence[Item], work: Work) -> Future[list[Result]]:
        """Line items up; the future's result is in their order.

        It is cancelled when `work` is, and cancelling it drops the rows that are in no batch yet.
        Raises Overloaded, ModelUnavailable.
        """
        request: Request[Item, Result] = Request(work, self._clock(), size=len(items))
        request.rows = [
            Row(request, at, item, max(1, self._length(item)), self._group(item))
            for at, item in enumerate(items)
        ]
        request.rows.sort(key=lambda row: -row.length)
        if work.cancelled.is_set():
            request.future.cancel()
            request.future.set_running_or_notify_cancel()
        elif not items:
            request.future.set_result([])
        else:
            self._accept(request)
            request.future.add_done_callback(lambda _: self._drop(request))
            if self._crowd is not None and work.priority is Priority.INTERACTIVE:
                self._crowd.enter()
                request.future.add_done_callback(lambda _: self._leave())
            forget = work.cancelled.call(request.future.cancel)
            request.future.add_done_callback(lambda _: forget())
        return request.future

    def close(self) -> None:
        """Finish what was accepted, refuse what comes, let the threads go."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _accept(self, request: Request[Item, Result]) -> None:
        with self._changed:
            if self._closing:
                raise ModelUnavailable(f"{self.name} is closed.", hint="The process is stopping.")
            interactive = request.work.priority is Priority.INTERACTIVE
            waiting = self._queue.waiting(Priority.INTERACTIVE)
            if interactive and waiting >= self._most_waiting:
                raise Overloaded(
                    f"{waiting} requests wait for {self.name} already.",
                    retry_after=self._seconds_ahead(),
                    hint="Try again in a moment.",
                )
            self._queue.add(request)
            # One request may be enough for several workers.
            self._changed.notify_all()

    def _leave(self) -> None:
        assert self._crowd is not None
        self._crowd.leave()

    def _seconds_ahead(self) -> float:
        """How long what waits will take, at the speed of all batches so far."""
        if not self._stats.busy_seconds:
            return 1.0
        speed = len(self._threads) * self._stats.tokens / self._stats.busy_seconds
        return self._queue.tokens / speed

    def _drop(self, request: Request[Item, Result]) -> None:
        """A request that is done leaves the queue, whatever it was done by."""
        with self._changed:
            dropped = self._queue.drop(request)
            self._stats = replace(self._stats, dropped=self._stats.dropped + dropped)
            cancelled = not request.settled and request.future.cancelled()
            request.settled = True
        if cancelled:
            request.future.set_running_or_notify_cancel()  # else `wait` would not see it done

    def _work(self) -> None:
        while batch := self._next():
            started = self._clock()
            try:
                results = self._run([row.item for row in batch])
                if len(results) != len(batch):
                    raise RuntimeError(
                        f"{self.name} gave {len(results)} results for {len(batch)} items."
                    )
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is theirs who wait
                self._settle({row.request for row in batch}, partial(_fail, error=error))
            else:
                self._finish(batch, results, self._clock() - started)

    def _next(self) -> list[Row[Item, Result]]:
        """Wait for a batch; empty when there will be no more."""
        with self._changed:
            while True:
                now = self._clock()
                batch = self._queue.take(now)
                if batch or self._closing:
                    break
                self._changed.wait()
            waited = sum(now - row.request.arrived for row in batch)
            self._stats = replace(self._stats, wait_seconds=self._stats.wait_seconds + waited)
        return batch

    def _finish(
        self, batch: Sequence[Row[Item, Result]], results: Sequence[Result], seconds: float
    ) -> None:
        with self._changed:
            stats = self._stats
            self._stats = replace(
                stats,
                batches=stats.batches + 1,
                rows=stats.rows + len(batch),
                tokens=stats.tokens + sum(row.length for row in batch),
                padded_tokens=stats.padded_tokens + padded_tokens(batch),
                busy_seconds=stats.busy_seconds + seconds,
            )
            self._queue.measured(batch, seconds)
            for row, result in zip(batch, results, strict=True):
                row.request.results[row.at] = result
            requests = {row.request for row in batch}
            complete = [r for r in requests if len(r.results) == r.size]
        self._settle(complete, _give)

    def _settle(
        self,
        requests: Iterable[Request[Item, Result]],
        settle: Callable[[Request[Item, Result]], None],
    ) -> None:
        """Settle the futures of requests, each once, without the lock: it calls who listens."""
        with self._changed:
            unsettled = [request for request in requests if not request.settled]
            for request in unsettled:
                request.settled = True
        for request in unsettled:
            if request.future.set_running_or_notify_cancel():
                settle(request)


def choose_run(
    lengths: Sequence[int], wanted: Sequence[bool], budget: int, pass_tokens: int = PASS_TOKENS
) -> slice:
    """Neighbours among `lengths`, longest first, that make the best batch.

    The run has at most `budget` padded tokens and at most `PADDING` of padding, except that
    `pass_tokens` of it are always allowed, because another batch would cost more; one row is a run
    whatever its length. Of these the one with the most wanted rows, at least one, then with the
    most tokens.
    """
    tokens = list(accumulate(lengths, initial=0))
    wishes = list(accumulate(wanted, initial=0))

    def fits(start: int, end: int) -> bool:
        padded = (end - start) * lengths[start]
        padding = padded - (tokens[end] - tokens[start])
        allowed = max(pass_tokens, PADDING * padded)
        return end == start + 1 or (padded <= budget and padding <= allowed)

    best, most, end = slice(0, 0), (0, 0), 0
    for start in range(len(lengths)):
        # What fits grows with no further row that does not: every one is shorter than all before.
        end = max(end, start + 1)
        while not fits(start, end):
            end -= 1
        while end < len(lengths) and fits(start, end + 1):
            end += 1
        gain = (wishes[end] - wishes[start], tokens[end] - tokens[start])
        if gain[0] and gain > most:
            best, most = slice(start, end), gain
        if end == len(lengths):
            break  # what follows is part of this run
    return best


def padded_tokens(batch: Sequence[Row[Item, Result]]) -> int:
    """Rows times the longest: what the model is run on."""
    return len(batch) * max(row.length for row in batch)


class _Speed:
    """Tokens per second of late: a quotient of two decaying sums, so long batches weigh more."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self._tokens = FORGETTING * self._tokens + tokens
        self._seconds = FORGETTING * self._seconds + seconds


def _window(
    queue: Sequence[Request[Item, Result]], group: Hashable, budget: int
) -> list[Row[Item, Result]]:
    """Rows of one group up to `budget` tokens, oldest requests first; then longest first.

    Of a request longer than that its longest rows, so that choosing costs the same whatever waits.
    """
    rows = (row for request in queue for row in request.rows if row.group == group)
    window: list[Row[Item, Result]] = []
    found = 0
    for row in rows:
        if found >= budget:
            break
        window.append(row)
        found += row.length
    return sorted(window, key=lambda row: -row.length)  # stable: of equal ones the oldest


def _give(request: Request[Item, Result]) -> None:
    request.future.set_result([request.results[at] for at in range(request.size)])


def _fail(request: Request[Item, Result], error: BaseException) -> None:
    request.future.set_exception(error)
