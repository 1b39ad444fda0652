"""Measured speed, with a clock in the test's hand."""

import pytest

from rag.pace import PAST, Pace, text_bytes


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read(pace: Pace, clock: Clock, size: int, seconds: float) -> None:
    with pace.measure(size):
        clock.now += seconds


def test_nothing_is_known_before_the_first_pass():
    pace = Pace(Clock())
    assert (pace.per_second, pace.affordable([1], 10)) == (None, None)


def test_the_first_pass_counts_whole_and_later_ones_in_part():
    clock = Clock()
    pace = Pace(clock)
    read(pace, clock, 1000, 2.0)
    assert pace.per_second == pytest.approx(500)
    read(pace, clock, 1000, 1.0)  # twice as fast
    assert pace.per_second == pytest.approx(PAST * 500 + (1 - PAST) * 1000)


def test_after_five_passes_the_new_speed_is_four_fifths_of_the_mean():
    clock = Clock()
    pace = Pace(clock)
    read(pace, clock, 0, 1.0)
    for _ in range(5):
        read(pace, clock, 100, 1.0)
    assert 80 < pace.per_second < 85  # 100 * (1 - 0.7**5) = 83.2


def test_what_fits_into_the_time_by_hand():
    clock = Clock()
    pace = Pace(clock)
    read(pace, clock, 100, 1.0)
    assert pace.affordable([50, 60, 40, 1], 1.5) == 3  # 50 + 60 + 40 = 150 bytes in 1.5 seconds
    assert pace.affordable([50, 60, 40, 1], 1.49) == 2
    assert pace.affordable([], 1.0) == 0
    assert pace.affordable([1], 0.0) == 0
    assert pace.affordable([0], -1.0) == 0  # too late, even for nothing


def test_a_pass_that_fails_tells_nothing():
    pace = Pace(Clock())
    with pytest.raises(RuntimeError), pace.measure(100):
        raise RuntimeError
    assert pace.per_second is None


def test_bytes_of_text():
    assert [text_bytes(text) for text in ("a", "é", "語", "")] == [1, 2, 3, 0]
