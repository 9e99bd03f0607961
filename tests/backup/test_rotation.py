"""Which backups a rule keeps, over simulated years."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from passerelle.backup.rotation import Keep, kept

DAY = timedelta(days=1)
START = datetime(2023, 1, 1, 3, 0, tzinfo=UTC)
RULE = Keep(daily=7, weekly=4, monthly=12)

times = st.lists(st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)), max_size=60)
rules = st.builds(Keep, daily=st.integers(0, 9), weekly=st.integers(0, 9), monthly=st.integers(0, 9))


def dates(found: set[datetime]) -> list[str]:
    return [f"{time:%m-%d}" for time in sorted(found)]


def simulate(start: datetime, steps: list[timedelta], rule: Keep) -> set[datetime]:
    """Make a backup after each step and rotate after each backup; return what is left."""
    left: set[datetime] = set()
    now = start
    for step in steps:
        now += step
        left = kept({*left, now}, rule)
        assert now in left
    return left


def test_a_week_of_days_a_month_of_weeks_a_year_of_months() -> None:
    left = simulate(START, [DAY] * 3 * 366, RULE)  # with 29 February 2024
    last = START + 3 * 366 * DAY
    assert last == datetime(2026, 1, 3, 3, tzinfo=UTC)
    assert dates({time for time in left if time > last - 7 * DAY}) == [
        *("12-28", "12-29", "12-30", "12-31", "01-01", "01-02", "01-03"),
    ]
    # The last day of each of the twelve months, the present one included.
    months = [f"{time:%Y-%m-%d}" for time in sorted(left) if (time + DAY).day == 1 or time == last]
    assert months == [
        *("2025-02-28", "2025-03-31", "2025-04-30", "2025-05-31", "2025-06-30", "2025-07-31", "2025-08-31"),
        *("2025-09-30", "2025-10-31", "2025-11-30", "2025-12-31", "2026-01-03"),
    ]
    # The Sundays of three weeks, and this week.
    rest = {time for time in left if time <= last - 7 * DAY and f"{time:%Y-%m-%d}" not in months}
    assert dates(rest) == ["12-14", "12-21"]
    assert len(left) == 7 + 2 + 11 - 1


def test_rotating_each_day_keeps_what_rotating_once_would_keep() -> None:
    """A backup that a later rotation needs is never deleted by an earlier one."""
    every = {START + n * DAY for n in range(1, 1200)}
    assert simulate(START, [DAY] * 1199, RULE) == kept(every, RULE)


def test_several_backups_a_day_leave_the_last() -> None:
    left = simulate(START, [timedelta(hours=1)] * 24 * 30, Keep(daily=3))
    assert [time.hour for time in sorted(left)] == [23, 23, 3]


def test_clock_changes_do_not_matter() -> None:
    """Nightly backups at 02:30 of Paris, over two years with four changes of the clock."""
    paris = ZoneInfo("Europe/Paris")
    made = [datetime(2025, 1, 1, 2, 30, tzinfo=paris) + n * DAY for n in range(730)]
    left: set[datetime] = set()
    for now in made:
        left = kept({*left, now}, Keep(daily=7))
        assert now.astimezone(UTC) in left
    assert sorted(left) == [time.astimezone(UTC) for time in made[-7:]]


def test_old_backups_stay_after_a_gap() -> None:
    """Nothing was made for a year: the last backups before the gap are still there, and go one by one."""
    before = simulate(START, [DAY] * 100, Keep(daily=7))
    after = START + 465 * DAY
    left = kept({*before, after}, Keep(daily=7))
    assert len(left) == 7 and sorted(left)[:6] == sorted(before)[1:]


@given(times, rules)
def test_the_last_backup_is_always_kept(made: list[datetime], rule: Keep) -> None:
    left = kept(made, rule)
    assert left <= set(made)
    assert bool(left) == bool(made) and (not made or max(made) in left)
    assert len(left) <= rule.daily + rule.weekly + rule.monthly + 1
    assert kept(left, rule) == left


@given(times, rules)
def test_days_weeks_and_months_without_a_gap_are_kept(made: list[datetime], rule: Keep) -> None:
    left = kept(made, rule)
    for number, period in ((rule.daily, "%Y-%j"), (rule.weekly, "%G-%V"), (rule.monthly, "%Y-%m")):
        last = {time.strftime(period): time for time in sorted(made)}
        wanted = sorted(last.values(), reverse=True)[:number]
        assert left >= set(wanted)
