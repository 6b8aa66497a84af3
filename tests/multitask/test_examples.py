"""Records to examples: tags, roles and None, and what is held out."""

import json
import random
from pathlib import Path

import pytest

from xmtl_ray.data import ace05
from xmtl_ray.data import world as news_world
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.records import (
    Box,
    DataError,
    DetectedObject,
    Entity,
    Image,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.multitask.examples import (
    argument_examples,
    hold_out,
    read,
    role_examples,
    trigger_examples,
    verb_examples,
)

ATTACK, DIE, MEET = "Conflict:Attack", "Life:Die", "Contact:Meet"
WORDS = ("Rebels", "opened", "fire", "and", "killed", "two")


def tags(*events):
    """Tag names of the one example that a sentence with these events makes."""
    (example,) = trigger_examples([Sentence("D_0", WORDS, events=events)])
    assert example.words == WORDS
    return [m2e2().tags[index] for index in example.tags]


def test_triggers_become_bio_tags():
    """Two words are B and I, one word is B, the rest O; the tags give the mentions back."""
    found = tags(TextEvent(DIE, Span(4, 5)), TextEvent(ATTACK, Span(1, 3)))
    assert found == ["O", "B-Conflict:Attack", "I-Conflict:Attack", "O", "B-Life:Die", "O"]
    assert mentions(found) == [(ATTACK, Span(1, 3)), (DIE, Span(4, 5))]
    assert tags() == ["O"] * 6


def test_of_overlapping_triggers_the_first_stays_whole():
    """The one that begins first, in any order; at the same start the shorter; touching is no overlap."""
    first, second = TextEvent(ATTACK, Span(1, 3)), TextEvent(DIE, Span(2, 5))
    assert tags(first, second) == tags(second, first) == tags(first)
    assert tags(TextEvent(ATTACK, Span(1, 4)), TextEvent(DIE, Span(1, 2)))[:3] == ["O", "B-Life:Die", "O"]
    both = tags(TextEvent(ATTACK, Span(1, 3)), TextEvent(ATTACK, Span(3, 4)))
    assert mentions(both) == [(ATTACK, Span(1, 3)), (ATTACK, Span(3, 4))]


def test_a_sentence_without_words_is_no_example():
    assert trigger_examples([Sentence("D_0", ())]) == []


def test_every_event_asks_every_entity():
    """Two events by two entities are four questions; whoever takes no part in the event is None, which is label 0."""
    rebels, two = Span(0, 1), Span(5, 6)
    sentence = Sentence(
        "D_0",
        WORDS,
        entities=(Entity(rebels, "PER"), Entity(two, "PER")),
        events=(
            TextEvent(ATTACK, Span(1, 3), (TextArgument("Attacker", rebels),)),
            TextEvent(DIE, Span(4, 5), (TextArgument("Victim", two), TextArgument("Agent", rebels))),
        ),
    )
    found = argument_examples([sentence, Sentence("D_1", WORDS, entities=sentence.entities)])
    assert m2e2().roles[0] == "None"
    assert [(item.event_type, item.trigger, item.entity, m2e2().roles[item.role]) for item in found] == [
        (ATTACK, Span(1, 3), rebels, "Attacker"),
        (ATTACK, Span(1, 3), two, "None"),
        (DIE, Span(4, 5), rebels, "Agent"),
        (DIE, Span(4, 5), two, "Victim"),
    ]


def test_an_argument_that_is_no_entity_is_no_question():
    """At test only entities are asked, so nothing else is learnt from."""
    event = TextEvent(DIE, Span(4, 5), (TextArgument("Victim", Span(5, 6)),))
    assert argument_examples([Sentence("D_0", WORDS, events=(event,))]) == []


def test_images_become_types_and_objects_roles():
    """Each type once, by its index; each box once, None where it is no argument; no file, no example."""
    path, gun, man = Path("x.jpg"), Box(0, 0, 1, 1), Box(2, 2, 3, 3)
    boxes = (DetectedObject(gun, "gun", 1), DetectedObject(man, "man", 1), DetectedObject(gun, "weapon", 0.5))
    attack = VisualEvent(ATTACK, (VisualArgument("Instrument", gun),))
    image = Image("D_0", path, (attack, VisualEvent(MEET), attack), boxes)
    quiet, lost = Image("D_1", path, (), boxes[:1]), Image("D_2", None, (attack,), boxes)
    types = m2e2().types
    expected = sorted([types.index(ATTACK), types.index(MEET)])
    assert [list(item.types) for item in verb_examples([image, quiet, lost])] == [expected, []]
    found = [(item.box, m2e2().roles[item.role]) for item in role_examples([image, quiet, lost])]
    assert found == [(gun, "Instrument"), (man, "None"), (gun, "None")]


def sentences(documents, each):
    return [Sentence(f"DOC{number}_{index}", ("a",)) for number in range(documents) for index in range(each)]


@pytest.mark.parametrize(("documents", "fraction", "held"), [(20, 0.1, 2), (3, 0.1, 1), (2, 0.5, 1), (10, 0.33, 3)])
def test_held_out_documents_stay_together(documents, fraction, held):
    """About the fraction of the documents, at least one; each whole on one side, nothing lost, order kept."""
    records = sentences(documents, 4)
    rest, dev = hold_out(records, lambda sentence: sentence.document, fraction, seed=0)
    sides = [{sentence.document for sentence in side} for side in (rest, dev)]
    assert len(sides[1]) == held and not sides[0] & sides[1]
    assert len(dev) == 4 * held and len(rest) == len(records) - len(dev)
    assert list(rest) == [record for record in records if record in rest]


def test_what_is_held_out_depends_on_the_keys_and_the_seed_alone():
    """Shuffled or with more sentences, the same documents; with another seed others."""
    records = sentences(40, 3)
    mixed = random.Random(1).sample(records, len(records)) + sentences(40, 5)

    def held(some, seed):
        return {sentence.document for sentence in hold_out(some, lambda item: item.document, 0.2, seed)[1]}

    assert held(records, 0) == held(mixed, 0)
    assert len({frozenset(held(records, seed)) for seed in range(5)}) == 5


def test_read_follows_the_tasks_and_the_files(tiny):
    """In the order of the tasks; as many trigger examples as sentences, as many verb examples as images."""
    config = tiny("multitask.tasks=[rc,td]")
    found = read(config)
    assert list(found.train) == list(found.dev) == ["rc", "td"]
    train = ace05.read(config.data.ace.train)
    assert [item.words for item in found.train["td"]] == [sentence.words for sentence in train]
    assert list(found.sentences) == [sentence.words for sentence in train]
    assert len(found.dev["td"]) == len(ace05.read(config.data.ace.dev))


def test_without_dev_files_a_share_is_held_out(tiny):
    """No example is on both sides, and together they are what the training files have."""
    config = tiny("data.ace.dev=null", "data.imsitu.dev=null", "data.imsitu.dev_boxes=null", "data.dev_fraction=0.25")
    found, whole = read(config), read(tiny())
    for name in ("td", "vc"):
        assert len(found.train[name]) + len(found.dev[name]) == len(whole.train[name])
        assert len(found.dev[name]) == round(0.25 * len(whole.train[name]))
    assert not {item.path for item in found.train["vc"]} & {item.path for item in found.dev["vc"]}


def test_m2e2_documents_train_the_text_tasks(tiny, world):
    """With data.train the sentences come from documents, and whole documents are held out."""
    config = tiny("data.ace=null", f"data.train={world / 'm2e2'}", "multitask.tasks=[td]", "train.global_batch=8")
    found = read(config)
    assert {type(item).__name__ for item in found.train["td"]} == {"TriggerExample"}
    assert len(found.dev["td"]) < len(found.train["td"])


@pytest.mark.parametrize(("task", "side"), [("td", "dev"), ("td", "training")])
def test_a_task_without_examples_is_named(tiny, tmp_path, task, side):
    """An empty file is a valid one, and useless: which task and which side."""
    (tmp_path / "empty.json").write_text(json.dumps([]))
    field = "data.ace.dev" if side == "dev" else "data.ace.train"
    with pytest.raises(ValueError, match=rf"multitask\.tasks: {task} has no {side} example"):
        read(tiny(f"{field}={tmp_path / 'empty.json'}"))


def test_annotated_images_without_files_are_counted(tiny, tmp_path):
    """Before training, with the number that is missing and the first of them."""
    with pytest.raises(DataError, match=r"\d+ images: found '.*\.jpg', expected a file of each annotated image"):
        read(tiny(f"data.imsitu.images={tmp_path}"))


def test_sentences_of_the_world_are_trained_on_and_never_held_out(world, tiny):
    """As many more training sentences, those that a world of the seed begins with; the dev examples stay the same."""
    alone, more = (read(tiny(f"data.world_sentences={count}")) for count in (0, 30))
    assert len(more.train["td"]) == len(alone.train["td"]) + 30
    assert more.dev["td"] == alone.dev["td"] and more.dev["ae"] == alone.dev["ae"]
    assert [example.words for example in more.train["td"][-30:]] == [s.words for s in news_world.sentences(30, 0)]
    assert news_world.sentences(30, 0) == news_world.sentences(40, 0)[:30] != news_world.sentences(30, 1)
