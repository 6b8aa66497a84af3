"""Answers by event type and by role, on two samples that a person can count."""

from xmtl_ray.evaluation.generative import score
from xmtl_ray.evaluation.generative_labels import by_role, by_type
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import GenerativeArgument as Argument
from xmtl_ray.events.records import GenerativeEvent as Event
from xmtl_ray.events.records import GenerativeSample

BUY = Event("Buy", "bought", (Argument("agent", "Labs"), Argument("thing", "land")))
MEET = Event("meet", "met", (Argument("agent", "Ann"),))
SAMPLES = [GenerativeSample("a", "en", "", (BUY, MEET)), GenerativeSample("b", "en", "", (BUY,))]
ANSWERS = {
    # Of the meeting the agent is another; what is bought is said of the meeting.
    "a": dumps([
        Event("buy", "bought", (Argument("Agent", "Labs"),)),
        Event("meet", "met", (Argument("agent", "Bob"), Argument("thing", "land"))),
    ]),
    "b": dumps([Event("sell", "bought", (Argument("agent", "Labs"),))]),
}  # fmt: skip


def test_types_are_counted_event_by_event_and_named_as_in_the_gold():
    """Buy: one of two triggers; of its four arguments one, for the land hangs on another event. Sell: made up."""
    found = by_type(score(SAMPLES, ANSWERS))
    assert [one.name for one in found] == ["Buy", "meet", "sell"]
    buy, meet, sell = found
    assert buy.triggers == [Prf(1, 1, 1), Prf(0, 0, 1)] and buy.arguments == [Prf(1, 1, 2), Prf(0, 0, 2)]
    assert meet.triggers == [Prf(1, 1, 1)] and meet.arguments == [Prf(0, 2, 1)]
    assert sell.triggers == [Prf(0, 1, 0)] and sell.gold == 0 and sell.predicted == 2


def test_roles_add_up_to_all_arguments():
    """Agents: Labs twice right, Ann not; things: one of two, whatever event it hangs on."""
    scored = score(SAMPLES, ANSWERS)
    agent, thing = by_role(scored)
    assert (agent.name, agent.arguments) == ("agent", [Prf(1, 2, 2), Prf(1, 1, 1)])
    assert (thing.name, thing.arguments) == ("thing", [Prf(1, 1, 1), Prf(0, 0, 1)])
    every = sum((counts for one in (agent, thing) for counts in one.arguments), Prf())
    assert every == sum((one.counts["argument"] for one in scored), Prf())
