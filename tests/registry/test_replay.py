"""What follows from a log of decisions: one winner for each champion, repeats, rollbacks; a log that was changed."""

import random
from dataclasses import replace

from xmtl_ray.registry.decisions import Entry, _hash, replay


def entry(kind, request, version, expected):
    return Entry(kind, request, version, expected, "me", "because", 0, "run")


def log(*entries):
    return replay((number, each, False) for number, each in enumerate(entries, 1))


def outcomes(state):
    return [each.outcome for each in state.decisions]


def test_of_two_on_one_champion_the_first_wins():
    state = log(
        entry("promote", "a", "1", None),
        entry("promote", "b", "2", "1"),
        entry("promote", "c", "3", "1"),
        entry("promote", "d", "3", "2"),
    )
    assert outcomes(state) == ["moved", "moved", "lost", "moved"]
    assert (state.champion, state.previous, state.champions) == ("3", "2", ("1", "2", "3"))


def test_a_request_that_comes_again_does_nothing():
    """Even where the champion is again the one that it expects."""
    state = log(
        entry("promote", "a", "1", None),
        entry("promote", "b", "2", "1"),
        entry("rollback", "c", "1", "2"),
        entry("promote", "b", "2", "1"),
        entry("promote", "a", "1", None),
    )
    assert outcomes(state) == ["moved", "moved", "moved", "repeated", "repeated"]
    assert state.champion == "1" and state.previous is None
    assert state.of_request("b").number == 2


def test_a_rollback_is_compared_too():
    """It goes to the champion before, once, and no further than there were champions."""
    begin = [
        entry("promote", str(number), str(number), str(number - 1) if number > 1 else None) for number in (1, 2, 3)
    ]
    state = log(*begin, entry("rollback", "x", "2", "3"), entry("rollback", "y", "2", "3"))
    assert outcomes(state)[3:] == ["moved", "lost"] and (state.champion, state.previous) == ("2", "1")
    state = log(*begin, entry("rollback", "x", "1", "3"))
    assert outcomes(state)[3] == "lost" and state.champion == "3"
    state = log(*begin[:1], entry("rollback", "x", "1", "1"))
    assert outcomes(state)[1] == "lost"


def test_a_champion_from_before_the_log_counts():
    """The alias as the first promotion found it; a refusal changes nothing and begins nothing."""
    state = log(entry("refuse", "r", "8", "4"), entry("promote", "a", "9", "4"), entry("promote", "b", "7", "4"))
    assert outcomes(state) == ["recorded", "moved", "lost"]
    assert (state.champion, state.previous) == ("9", "4")
    assert not log(entry("refuse", "r", "8", "4")).begun


def test_whatever_the_order_no_winner_was_stale():
    """Two hundred logs of writers who expect what some earlier entry has made champion: against a plain loop."""
    chance = random.Random(0)
    for _ in range(200):
        seen, entries = [None], []
        for number in range(12):
            entries.append(entry("promote", chance.choice("abcdefgh"), str(number), chance.choice(seen[-3:])))
            seen.append(str(number))
        champion, done, expected = None, set(), []
        for each in entries:
            if each.request in done:
                expected.append("repeated")
            elif not expected.count("moved") or each.expected == champion:
                champion = each.version
                expected.append("moved")
            else:
                expected.append("lost")
            done.add(each.request)
        state = log(*entries)
        assert outcomes(state) == expected and state.champion == champion


def test_what_is_changed_or_removed_later_shows():
    """Each entry holds the hash of the last that its writer saw."""
    first = entry("promote", "a", "1", None)
    second = replace(entry("promote", "b", "2", "1"), seen=f"1:{_hash(1, first)}")
    assert log(first, second).broken == ()
    changed = replace(first, why="for another reason")
    assert "entry 1 is not what entry 2 saw" in log(changed, second).broken[0]
    gone = replay([(2, second, False)])
    assert len(gone.broken) == 2 and "entries 1 are gone" in gone.broken[1]
