"""Documents that are worked on at once share the memory."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.errors import Cancelled
from rag.room import Room
from rag.work import Work

LONG = 60.0


def waiting(room: Room, count: int) -> None:
    """Return when so many wait."""
    while True:
        with room._changed:
            if len(room._waiting) == count:
                return


def test_what_fits_is_let_in_and_the_rest_waits_in_its_order():
    room, order, leave = Room(10), [], threading.Event()

    def enter(name, size):
        with room.take(size, Work()):
            order.append(name)
            assert leave.wait(LONG)

    with ThreadPoolExecutor(4) as threads:
        with room.take(6, Work()):
            threads.submit(enter, "large", 8)
            waiting(room, 1)
            threads.submit(enter, "small", 2)  # would fit, and would starve the large one
            waiting(room, 2)
            assert order == []
        waiting(room, 0)
        leave.set()
    assert order == ["large", "small"]
    assert room._taken == 0


def test_what_is_larger_than_the_room_is_alone():
    room = Room(10)
    with ThreadPoolExecutor(1) as threads:
        with room.take(1, Work()):
            huge = room.take(1000, Work())
            entered = threads.submit(huge.__enter__)
            waiting(room, 1)
        entered.result(LONG)
    assert room._taken == 10
    huge.__exit__(None, None, None)
    assert room._taken == 0


def test_who_is_cancelled_stops_waiting_and_lets_the_next_in():
    room, work = Room(10), Work()

    def enter(size, work):
        with room.take(size, work):
            return "in"

    with ThreadPoolExecutor(2) as threads, room.take(5, Work()):
        large = threads.submit(enter, 9, work)
        waiting(room, 1)
        small = threads.submit(enter, 3, Work())
        waiting(room, 2)
        work.cancelled.set()
        with pytest.raises(Cancelled):
            large.result(LONG)
        assert small.result(LONG) == "in"


def test_an_error_inside_gives_the_room_back():
    room = Room(10)
    with pytest.raises(ZeroDivisionError), room.take(10, Work()):
        raise ZeroDivisionError
    with room.take(10, Work()):
        pass
