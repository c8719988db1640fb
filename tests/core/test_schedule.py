"""The schedule: backoff, then interval (semantics, section 2)."""

from __future__ import annotations

import dataclasses
import math
import sys
from itertools import islice, pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_lro._core.schedule import Schedule, Window
from tests.core.virtual import properties

MONTH = 30 * 24 * 3600.0
RANGES = {
    "interval": (0.1, 1e9),
    "initial": (0.1, 1e9),
    "multiplier": (1.0, 1000.0),
    "jitter": (0.0, 1.0),
}
"""The values that ``WaitArgs`` lets pass; ``test_args`` checks these ends."""

seconds = st.floats(0.1, 1e4)
schedules = st.builds(
    Schedule,
    interval=seconds,
    initial=seconds,
    # A naive loop needs a multiplier that gets somewhere.
    multiplier=st.one_of(st.just(1.0), st.floats(1.01, 10.0), st.integers(1, 1000)),
    jitter=st.floats(0.0, 1.0),
)
extremes = st.builds(Schedule, **{name: st.floats(*ends) | st.sampled_from(ends) for name, ends in RANGES.items()})


def bounds(schedule: Schedule, count: int, **options: Any) -> list[float]:
    """Return the longest that the first pauses may be."""
    return [window.longest for window in windows(schedule, count, **options)]


def windows(schedule: Schedule, count: int, **options: Any) -> list[Window]:
    """Return the first windows of a schedule."""
    return list(islice(schedule.windows(**options), count))


def naive_bound(schedule: Schedule, elapsed: float) -> float:
    """Return the bound that is not used up after ``elapsed`` seconds, by going through them one by one."""
    bound, used = min(schedule.initial, schedule.interval), 0.0
    while schedule.multiplier > 1.0 and bound < schedule.interval and used + bound <= elapsed:
        used += bound
        bound = min(bound * schedule.multiplier, schedule.interval)
    return bound


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 2, 4, 8, 16, 32, 60, 60, 60]),
        (Schedule(interval=3), [1, 2, 3, 3, 3]),
        (Schedule(interval=60, initial=10, multiplier=1.5), [10, 15, 22.5, 33.75, 50.625, 60, 60]),
        (Schedule(interval=8), [1, 2, 4, 8, 8]),
        (Schedule(interval=60, initial=5, multiplier=1), [5, 5, 5, 5]),
        (Schedule(interval=60, initial=60), [60, 60, 60]),
    ],
)
def test_bounds_double_until_they_reach_the_interval(schedule: Schedule, expected: list[float]) -> None:
    """The bounds grow by the multiplier until they reach the interval, and then stay there."""
    assert bounds(schedule, len(expected)) == expected


@pytest.mark.parametrize("interval", [0.1, 0.2, 0.9])
def test_an_interval_below_the_initial_delay_rules(interval: float) -> None:
    """An interval of 0.2 s really polls every 0.2 s, resumed or not."""
    schedule = Schedule(interval=interval, initial=1.0)
    assert bounds(schedule, 4) == [interval] * 4
    assert bounds(schedule, 4, elapsed=100.0, polled=True) == [interval] * 4


@properties
@given(schedule=schedules)
def test_every_window_ends_at_its_bound_and_starts_at_the_share_that_jitter_leaves(schedule: Schedule) -> None:
    """Each window is [bound * (1 - jitter), bound], and no bound is above the backoff's or the interval."""
    found = windows(schedule, 30)
    for number, window in enumerate(found):
        power = schedule.multiplier**number if number * math.log(schedule.multiplier) < 500 else math.inf
        bound = min(schedule.initial * power, schedule.interval)
        assert window.longest == pytest.approx(bound, rel=1e-9)
        assert window.shortest == pytest.approx(bound * (1 - schedule.jitter), rel=1e-9)
        assert 0.0 <= window.shortest <= window.longest <= schedule.interval
    assert all(earlier.longest <= later.longest for earlier, later in pairwise(found))


def test_without_jitter_a_window_is_a_moment() -> None:
    """A jitter of 0 leaves nothing to choose."""
    assert all(window.shortest == window.longest for window in windows(Schedule(jitter=0), 10))


def test_full_jitter_may_poll_at_once() -> None:
    """A jitter of 1 is gax-go's own: from nothing to the whole bound."""
    assert [(window.shortest, window.longest) for window in windows(Schedule(jitter=1, interval=3), 4)] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (0, 3),
    ]


@pytest.mark.parametrize(
    ("elapsed", "expected"),
    [
        (-5.0, [1, 2, 4]),
        (0.0, [1, 2, 4]),
        (0.999, [1, 2, 4]),
        (1.0, [2, 4, 8]),
        (2.999, [2, 4, 8]),
        (3.0, [4, 8, 16]),
        (62.9, [32, 60, 60]),
        (63.0, [60, 60, 60]),
        (MONTH, [60, 60, 60]),
    ],
)
def test_a_resumed_schedule_leaves_out_what_the_time_has_used_up(elapsed: float, expected: list[float]) -> None:
    """The default's bounds 1, 3, 7, … seconds after the start are where its backoff would be by then."""
    assert bounds(Schedule(), 3, elapsed=elapsed, polled=True) == expected


@properties
@given(schedule=schedules, elapsed=st.floats(0.0, MONTH) | st.floats(0.0, 100.0))
def test_the_closed_form_agrees_with_a_loop_over_the_bounds(schedule: Schedule, elapsed: float) -> None:
    """A loop over the cumulative bounds finds the same ones used up, but for a millionth at the very edge."""
    [bound] = bounds(schedule, 1, elapsed=elapsed, polled=True)
    least, most = (naive_bound(schedule, elapsed * (1.0 + error)) for error in (-1e-6, 1e-6))
    assert least * (1.0 - 1e-9) <= bound <= most * (1.0 + 1e-9)


@properties
@given(
    multiplier=st.sampled_from([1.5, 2, 3, 4, 5, 7, 10]),
    initial=st.sampled_from([0.1, 0.3, 1, 7]),
    used_up=st.integers(0, 8),
)
def test_a_bound_is_used_up_at_the_very_second_at_which_it_ends(
    multiplier: float, initial: float, used_up: int
) -> None:
    """The rounding of the closed form neither hides a bound that has just ended nor skips one that has not."""
    schedule = Schedule(interval=1e9, initial=initial, multiplier=multiplier)
    spent = math.fsum(bounds(schedule, used_up))
    assert bounds(schedule, 1, elapsed=spent, polled=True) == pytest.approx([initial * multiplier**used_up])
    if used_up:
        almost = bounds(schedule, 1, elapsed=spent * (1 - 1e-6))
        assert almost == pytest.approx([initial * multiplier ** (used_up - 1)])


@properties
@given(schedule=schedules, elapsed=st.floats(0.0, MONTH))
def test_only_the_first_window_of_a_resumed_wait_is_wide(schedule: Schedule, elapsed: float) -> None:
    """A resumed wait polls at any moment up to its first bound, and then as any other."""
    expected = bounds(schedule, 8, elapsed=elapsed, polled=True)
    first, *others = windows(schedule, 8, elapsed=elapsed)
    assert first == Window(shortest=0.0, longest=expected[0])
    assert others == [Window(shortest=bound * (1 - schedule.jitter), longest=bound) for bound in expected[1:]]


@properties
@given(schedule=schedules, elapsed=st.floats(0.0, MONTH))
def test_a_resumed_wait_that_has_just_polled_has_no_wide_window(schedule: Schedule, elapsed: float) -> None:
    """After a poll of a moment ago the first window is one like all others."""
    expected = bounds(schedule, 8, elapsed=elapsed, polled=True)
    assert windows(schedule, 8, elapsed=elapsed, polled=True) == [
        Window(shortest=bound * (1 - schedule.jitter), longest=bound) for bound in expected
    ]


def test_a_fresh_wait_has_no_wide_window() -> None:
    """Nothing elapsed is a resume, None is not."""
    assert windows(Schedule(), 1)[0].shortest == pytest.approx(0.9)
    assert windows(Schedule(), 1, elapsed=0.0)[0].shortest == 0.0


@properties
@given(
    schedule=extremes,
    elapsed=st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([sys.float_info.max, 1e300, MONTH]),
)
@example(schedule=Schedule(), elapsed=sys.float_info.max)
@example(schedule=Schedule(multiplier=1000.0), elapsed=sys.float_info.max)
def test_extreme_values_neither_overflow_nor_take_long(schedule: Schedule, elapsed: float) -> None:
    """Any schedule that is allowed, resumed after any time that a float can say, starts at once with finite bounds."""
    found = bounds(schedule, 4, elapsed=elapsed, polled=True)
    least = min(schedule.initial, schedule.interval) * (1 - 1e-9)
    assert all(least <= bound <= schedule.interval for bound in found)
    assert found == sorted(found)


def test_a_multiplier_of_next_to_one_is_resumed_without_a_loop() -> None:
    """A backoff that needs 10**14 steps to its interval is resumed after a month in a few."""
    [bound] = bounds(Schedule(initial=0.1, interval=1e9, multiplier=1.0 + 1e-13), 1, elapsed=MONTH)
    # After so many bounds of next to 0.1 s, the multiplier has had its effect 2.6e7 times.
    assert bound == pytest.approx(0.1, rel=1e-5)


def test_the_defaults_are_the_documented_ones() -> None:
    """An interval of a minute, from a second on, doubling, a tenth of jitter."""
    assert dataclasses.asdict(Schedule()) == {"interval": 60.0, "initial": 1.0, "multiplier": 2.0, "jitter": 0.1}


@pytest.mark.parametrize("value", [Schedule(), Window(shortest=1.0, longest=2.0)])
def test_values_are_frozen_slotted_and_spelled_out(value: Any) -> None:
    """A schedule and a window can be shared between waits, and say by name what their numbers are."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, 5.0)
    assert not hasattr(value, "__dict__")
    assert all(field.kw_only for field in dataclasses.fields(value))


@pytest.mark.parametrize(
    ("push", "expected"),
    [(0.0, (2.0, 4.0)), (2.0, (2.0, 4.0)), (3.0, (3.0, 4.0)), (4.0, (4.0, 4.0)), (9.0, (9.0, 9.0))],
)
def test_a_window_is_pushed_back_no_further_than_asked(push: float, expected: tuple[float, float]) -> None:
    """A pushed window begins at the moment asked for, unless it began later anyway."""
    assert dataclasses.astuple(Window(shortest=2.0, longest=4.0).at_least(push)) == expected


@pytest.mark.parametrize(
    ("cut", "expected"),
    [(0.0, (0.0, 0.0)), (1.0, (1.0, 1.0)), (3.0, (2.0, 3.0)), (4.0, (2.0, 4.0)), (math.inf, (2.0, 4.0))],
)
def test_a_window_is_cut_no_further_than_asked(cut: float, expected: tuple[float, float]) -> None:
    """A cut window ends at the moment asked for, unless it ended earlier anyway."""
    assert dataclasses.astuple(Window(shortest=2.0, longest=4.0).at_most(cut)) == expected


@pytest.mark.parametrize(
    ("gone", "expected"),
    [(0.0, (2.0, 4.0)), (1.5, (0.5, 2.5)), (3.0, (0.0, 1.0)), (4.0, (0.0, 0.0)), (9.0, (0.0, 0.0))],
)
def test_a_window_of_which_some_time_is_over_is_that_much_earlier(gone: float, expected: tuple[float, float]) -> None:
    """A long poll has done as much of the pause as it took, and never more than all of it."""
    assert dataclasses.astuple(Window(shortest=2.0, longest=4.0).earlier(gone)) == expected


@properties
@given(ends=st.tuples(seconds, seconds), push=st.floats(0.0, 1e5), cut=st.floats(0.0, 1e5))
def test_a_window_that_is_pushed_and_cut_stays_a_window(ends: tuple[float, float], push: float, cut: float) -> None:
    """In the order in which a wait does it, the cut has the last word and the ends stay in order."""
    window = Window(shortest=min(ends), longest=max(ends)).at_least(push).at_most(cut)
    assert 0.0 <= window.shortest <= window.longest <= cut
    assert window.shortest >= min(push, cut)
