"""On whose behalf a model computes."""

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from rag.work import Cancellation, Priority, Work, cancel_with, current_work, working


def test_work_is_interactive_and_alive_where_nobody_said():
    work = current_work()
    assert work.priority is Priority.INTERACTIVE
    assert not work.cancelled.is_set()
    work.cancelled.set()
    assert not current_work().cancelled.is_set(), "the work of nobody is nobody's to cancel"


def test_work_holds_within_its_block_and_its_thread():
    bulk, question = Work(Priority.BULK), Work()
    with working(bulk):
        with working(question):
            assert current_work() is question
        assert current_work() is bulk
        with ThreadPoolExecutor() as threads:
            assert threads.submit(current_work).result() is not bulk
            assert threads.submit(copy_context().run, current_work).result() is bulk
    assert current_work() is not bulk


def test_a_cancellation_tells_each_listener_once():
    cancelled, told = Cancellation(), []
    cancelled.call(lambda: told.append("first"))
    cancelled.call(lambda: told.append("second"))
    assert told == []
    cancelled.set()
    cancelled.set()
    assert told == ["first", "second"]


def test_who_comes_late_is_told_at_once_and_who_left_is_not_told():
    cancelled, told = Cancellation(), []
    forget = cancelled.call(lambda: told.append("left"))
    forget()
    cancelled.set()
    cancelled.call(lambda: told.append("late"))
    forget()
    assert told == ["late"]


class Running:
    """Counts how often it was cancelled."""

    def __init__(self, cancelled):
        self._cancelled = cancelled

    def cancel(self):
        self._cancelled.append(self)


def test_what_runs_is_cancelled_with_its_work():
    work, cancelled = Work(), []
    running = Running(cancelled)
    cancel_with(work, running)
    assert cancelled == []
    work.cancelled.set()
    assert cancelled == [running]
    late = Running(cancelled)
    cancel_with(work, late)
    assert cancelled == [running, late]


def test_work_keeps_nothing_alive_that_runs_for_it():
    """A stream that nobody holds stops its model; were it held by its work, it would run on."""
    work, cancelled = Work(), []
    running = Running(cancelled)
    alive = weakref.ref(running)
    cancel_with(work, running)
    del running
    assert alive() is None
    work.cancelled.set()
    assert cancelled == []


def test_no_listener_is_lost_between_threads():
    """Whoever registers while another thread sets is told, by one of the two, exactly once."""
    for _ in range(200):
        cancelled, told = Cancellation(), []
        ready = threading.Barrier(2)

        def register(cancelled=cancelled, told=told, ready=ready):
            ready.wait(10)
            cancelled.call(lambda: told.append(1))

        thread = threading.Thread(target=register)
        thread.start()
        ready.wait(10)
        cancelled.set()
        thread.join(10)
        assert told == [1]
