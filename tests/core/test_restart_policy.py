"""The rules of restarting, as state machines without a clock."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_mgmt.restart_policy import RestartHistory, RestartPolicy

seconds = st.floats(0, 1e6)
policies = st.builds(
    RestartPolicy,
    limit=st.integers(0, 50),
    window=st.floats(0.001, 1e6),
    backoff=seconds,
    max_backoff=seconds,
)


class Life:
    """A kernel's life on a clock of its own: each death, and what the history says to it."""

    def __init__(self, policy: RestartPolicy) -> None:
        self.history = RestartHistory(policy)
        self.now = 1000.0

    def live(self, start: float, up: float | None) -> float | None:
        """Start, which takes a time; be up for a time unless the start fails; die."""
        self.now += start
        if up is not None:
            self.history.up(self.now)
            self.now += up
        return self.history.died(self.now)


def test_the_default_policy() -> None:
    """Five deaths in a row are answered, the first at once and each next one later; not the sixth."""
    life = Life(RestartPolicy())
    waits = [life.live(1, 1) for _ in range(7)]
    assert waits == [0, 0.1, 0.2, 0.4, 0.8, None, None]


@given(policies, st.lists(st.one_of(st.none(), st.just(0.0)), min_size=60, max_size=60), seconds)
def test_who_dies_on_each_start_is_given_up(
    policy: RestartPolicy, ups: list[float | None], start: float
) -> None:
    """Exactly `limit` deaths are answered, however long starts and waits take."""
    life = Life(policy)
    waits = [life.live(start, up) for up in ups]
    answered = [wait for wait in waits if wait is not None]
    assert waits == answered + [None] * (60 - policy.limit)
    assert len(answered) == policy.limit


@given(policies)
def test_waits_grow_to_their_maximum(policy: RestartPolicy) -> None:
    """The first restart is at once; then each wait is twice the last, up to the maximum."""
    waits = [policy.wait_before(n) for n in range(60)]
    assert waits[0] == 0
    assert waits[1] == min(policy.backoff, policy.max_backoff)
    assert all(
        after == min(2 * before, policy.max_backoff) for before, after in pairwise(waits[1:])
    )


@given(seconds, seconds, st.integers(0, 10**9))
def test_any_number_of_restarts_has_a_wait(backoff: float, most: float, restart: int) -> None:
    """No number of restarts overflows."""
    wait = RestartPolicy(backoff=backoff, max_backoff=most).wait_before(restart)
    assert 0 <= wait <= most


@given(policies.filter(lambda policy: policy.limit > 0), st.integers(1, 100))
def test_who_lives_longer_than_the_window_is_always_restarted(
    policy: RestartPolicy, deaths: int
) -> None:
    """A kernel that is up for more than the window between deaths is restarted at once, for ever."""
    life = Life(policy)
    assert [life.live(0, policy.window * 1.01) for _ in range(deaths)] == [0] * deaths


@given(policies, st.lists(st.tuples(seconds, st.one_of(st.none(), seconds)), max_size=100))
def test_no_window_has_more_than_the_limit(
    policy: RestartPolicy, lives: list[tuple[float, float | None]]
) -> None:
    """Within any window of uptime no more than `limit` deaths are answered, in any history."""
    life, uptime, answered = Life(policy), 0.0, []
    for start, up in lives:
        wait = life.live(start, up)
        uptime += up or 0
        if wait is not None:
            assert 0 <= wait <= policy.max_backoff
            answered.append(uptime)
    for first, beyond in zip(answered, answered[policy.limit :], strict=False):
        assert beyond - first >= policy.window * (1 - 1e-6) - 1e-6


@given(policies.filter(lambda policy: policy.limit > 0))
def test_a_history_can_be_forgotten(policy: RestartPolicy) -> None:
    """After forgetting, as after giving up and starting by hand, all begins anew."""
    life = Life(policy)
    waits = [life.live(0, 0) for _ in range(policy.limit + 1)]
    life.history.forget()
    assert [life.live(0, 0) for _ in range(policy.limit + 1)] == waits


def test_being_up_is_noted_once() -> None:
    """Who says twice that the kernel is up does not shorten the time that it was up."""
    history = RestartHistory(RestartPolicy(limit=1, window=10))
    assert history.died(0) == 0
    history.up(0)
    history.up(9)
    assert history.died(11) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"limit": -1},
        {"window": 0},
        {"window": math.nan},
        {"backoff": -1},
        {"backoff": math.nan},
        {"max_backoff": math.inf},
    ],
)
def test_nonsense_is_refused(values: dict[str, Any]) -> None:
    """A policy that makes no sense is a ValueError that names the field."""
    with pytest.raises(ValueError, match=f"^{next(iter(values))} is "):
        RestartPolicy(**values)


def test_a_policy_is_frozen() -> None:
    """A policy can be shared."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        RestartPolicy().limit = 3  # type: ignore[misc]
