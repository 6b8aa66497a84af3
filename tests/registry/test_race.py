"""Processes that promote at once on one MLflow server: compare-and-set holds, and a plain alias does not."""

import multiprocessing
import random
import time

import pytest
from mlflow.exceptions import MlflowException

from xmtl_ray.registry import decisions
from xmtl_ray.registry.decisions import Entry
from xmtl_ray.registry.server import CHAMPION, PREVIOUS, registry
from xmtl_ray.tracking.registry import RegistryError

PROCESSES, ROUNDS = 8, 4

pytestmark = pytest.mark.slow


def versions(client, name, count):
    """A registered model with so many versions of nothing; the run that they are of."""
    experiment = client.create_experiment(f"race {name}")
    run = client.create_run(experiment).info
    client.create_registered_model(name)
    for _ in range(count):
        client.create_model_version(name, f"{run.artifact_uri}/x", run.run_id, await_creation_for=None)
    return run.run_id


def decided(client, name, run, version, request):
    """As `promote` does, with a pause where it measures."""
    state = decisions.current(client, name)
    time.sleep(random.random() / 20)
    entry = Entry("promote", request, version, state.champion, "test", "race", 0, run)
    return state.champion, decisions.append(client, name, entry).outcome == "moved"


def plainly(client, name, run, version, request):
    """What MLflow offers: look who is champion, look again, set the alias."""
    expected = client.get_registered_model(name).aliases.get(CHAMPION)
    time.sleep(random.random() / 20)
    if client.get_registered_model(name).aliases.get(CHAMPION) != expected:
        return expected, False
    time.sleep(random.random() / 20)  # whatever a process is held up by between a look and a write
    try:
        client.set_registered_model_alias(name, CHAMPION, version)
    except MlflowException:  # two made the first alias at once: this one is told so
        return expected, False
    return expected, True


def take_part(way, uri, name, run, number, barrier, told):
    random.seed(number)
    with registry(uri, name) as client:
        for turn in range(ROUNDS):
            barrier.wait(120)
            version = str(1 + number + PROCESSES * turn)
            expected, won = way(client, name, run, version, f"{number}-{turn}")
            told.put((version, None if expected is None else str(expected), won))


def race(way, uri, name, run):
    """(version, champion that it was decided on, whether its process was told that it won) of every try."""
    # A forked process has MLflow imported already.
    context = multiprocessing.get_context("fork")
    barrier, told = context.Barrier(PROCESSES), context.Queue()
    given = [(way, uri, name, run, number, barrier, told) for number in range(PROCESSES)]
    processes = [context.Process(target=take_part, args=each) for each in given]
    for process in processes:
        process.start()
    found = [told.get(timeout=240) for _ in range(PROCESSES * ROUNDS)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    return found


def stale(found):
    """Winners that were decided on a champion that another winner had replaced."""
    expected = [champion for _, champion, won in found if won]
    return len(expected) - len(set(expected))


def test_exactly_one_wins_on_each_champion(server, record_property):
    """32 promotions by 8 processes: the winners are a chain from no champion to the alias; everybody else was told."""
    with registry(server, "race") as client:
        run = versions(client, "race", PROCESSES * ROUNDS)
        found = race(decided, server, "race", run)
        winners = {expected: version for version, expected, won in found if won}
        record_property("stale_promotions", stale(found))
        record_property("tried", len(found))
        record_property("survived", len(found) - stale(found))
        assert stale(found) == 0 and ROUNDS <= len(winners) <= PROCESSES * ROUNDS
        chain = [None]
        while chain[-1] in winners:
            chain.append(winners[chain[-1]])
        assert len(chain) == len(winners) + 1
        aliases = client.get_registered_model("race").aliases
        assert (aliases[CHAMPION], aliases[PREVIOUS]) == (chain[-1], chain[-2])
        state = decisions.read(client, "race")
        assert state.champions == tuple(chain[1:]) and not state.broken and state.settled
        assert len(state.decisions) == PROCESSES * ROUNDS

        # One request, sent five times more, by one who lost and by one who won.
        for outcome in ("moved", "lost"):
            entry = next(each.entry for each in state.decisions if each.outcome == outcome)
            again = {decisions.append(client, "race", entry).number for _ in range(5)}
            assert len(again) == 1
        assert decisions.read(client, "race") == state


def test_a_plain_alias_loses(server, record_property):
    """The control: the same processes with what MLflow offers are told that they won on one and the same champion."""
    with registry(server, "plain") as client:
        run = versions(client, "plain", PROCESSES * ROUNDS)
        lost = stale(race(plainly, server, "plain", run))
        record_property("control.stale_promotions", lost)
        assert lost > 0


def send(uri, run, barrier, told):
    with registry(uri, "one") as client:
        barrier.wait(120)
        entry = Entry("promote", "the one", "2", "1", "test", "again", 0, run)
        told.put(decisions.append(client, "one", entry).number)


def test_one_request_sent_at_once_by_five_has_one_effect(server):
    with registry(server, "one") as client:
        run = versions(client, "one", 2)
        client.set_registered_model_alias("one", CHAMPION, "1")
        context = multiprocessing.get_context("fork")
        barrier, told = context.Barrier(5), context.Queue()
        processes = [context.Process(target=send, args=(server, run, barrier, told)) for _ in range(5)]
        for process in processes:
            process.start()
        numbers = {told.get(timeout=120) for _ in processes}
        for process in processes:
            process.join(60)
        assert numbers == {1}
        state = decisions.read(client, "one")
        assert [each.outcome for each in state.decisions].count("moved") == 1
        assert state.champions == ("1", "2")


def test_who_dies_after_the_decision_has_decided(server):
    """The entry is there and the alias is not: whoever comes next moves it. An alias moved by hand stops everybody."""
    with registry(server, "crash") as client:
        run = versions(client, "crash", 3)
        tags = decisions._tags(Entry("promote", "dead", "2", None, "test", "died", 0, run), "")
        client.create_registered_model(f"crash{decisions.LOG}", {"xmtl.log": "crash"})
        source = f"{client.get_run(run).info.artifact_uri}/decision"
        client.create_model_version(f"crash{decisions.LOG}", source, run, tags)
        assert client.get_registered_model("crash").aliases == {}
        state = decisions.current(client, "crash")
        assert state.champion == client.get_registered_model("crash").aliases[CHAMPION] == "2" and state.settled

        client.set_registered_model_alias("crash", CHAMPION, "3")
        with pytest.raises(RegistryError, match=r"found alias champion at 3, expected 2, as decided.*--restore"):
            decisions.current(client, "crash")
        decisions.settle(client, "crash")
        assert decisions.current(client, "crash").champion == "2"
