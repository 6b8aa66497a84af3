"""Selection of pseudo-labels by hand-made answers: the paper's rule at its boundaries, and the examples it makes."""

from dataclasses import replace

import pytest

from xmtl_ray.config.schema import PseudoLabels, Thresholds
from xmtl_ray.data.pseudo_labels import LabelledArgument, LabelledObject, LabelledPair
from xmtl_ray.data.pseudo_selection import select
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.records import Box, DetectedObject, Entity, Span
from xmtl_ray.multitask.examples import ArgumentExample, RoleExample, TriggerExample, VerbExample
from xmtl_ray.multitask.pseudo import pseudo_examples

ATTACK, DIE, MEET = "Conflict:Attack", "Life:Die", "Contact:Meet"
WORDS = ("Rebels", "opened", "fire", "and", "killed", "two")
REBELS, TWO = Span(0, 1), Span(5, 6)
GUN, CROWD = Box(2, 2, 20, 12), Box(24, 4, 44, 30)
TASKS = ("td", "ae", "vc", "rc")


def pair(told=(ATTACK,), path=0.9, shown=((ATTACK, 0.9),), name="D_0", asked=True, arguments=(), objects=()):
    """A pair whose sentence tells an attack (words 1 and 2), a death (word 4) or both."""
    tags = ["O"] * len(WORDS)
    if ATTACK in told:
        tags[1:3] = f"B-{ATTACK}", f"I-{ATTACK}"
    if DIE in told:
        tags[4] = f"B-{DIE}"
    types = tuple(dict(shown).get(event_type, 0.0) for event_type in m2e2().types)
    return LabelledPair(
        *(name, f"{name}.jpg", "a" * 64, WORDS, (Entity(REBELS, "PER"), Entity(TWO, "PER"))),
        tuple(DetectedObject(each.box, "thing", 0.9) for each in objects),
        *(None, tuple(tags), path, types, asked, tuple(arguments), tuple(objects)),
    )


def kept(*rows, threshold=None, **rule):
    """Ids of the kept pairs."""
    return [each.pair.id for each in select(rows, threshold or Thresholds(), **rule).kept]


@pytest.mark.parametrize(("path", "keeps"), [(0.8, False), (0.8000000001, True), (1.0, True), (0.0, False)])
def test_the_paths_probability_must_be_greater(path, keeps):
    """0.8 exactly is not above 0.8."""
    assert bool(kept(pair(path=path))) is keeps


@pytest.mark.parametrize(("sure", "keeps"), [(0.8, False), (0.8000000001, True), (1.0, True)])
def test_a_types_probability_must_be_greater(sure, keeps):
    assert bool(kept(pair(shown=[(ATTACK, sure)]))) is keeps


def test_thresholds_of_one_and_zero():
    """Nothing is surer than 1; above 0 everything that was predicted at all counts."""
    row = pair(path=1.0, shown=[(ATTACK, 1.0)])
    assert not kept(row, threshold=Thresholds(td=1.0, vc=0)) and not kept(row, threshold=Thresholds(td=0, vc=1.0))
    assert kept(pair(path=0.01, shown=[(ATTACK, 0.01)]), threshold=Thresholds(td=0, vc=0))


@pytest.mark.parametrize(
    ("told", "shown", "rules"),
    [
        ([ATTACK], [ATTACK], {"shared", "same", "none"}),
        ([ATTACK, DIE], [ATTACK, DIE], {"shared", "same", "none"}),
        ([ATTACK, DIE], [DIE], {"shared", "none"}),
        ([ATTACK], [ATTACK, MEET], {"shared", "none"}),
        ([ATTACK], [MEET], {"none"}),
        ([ATTACK], [], {"none"}),
        ([], [ATTACK], {"none"}),
        ([], [], set()),
    ],
)
def test_agreement(told, shown, rules):
    """shared: a common type; same: equal sets; none: a side that predicts is enough. Two silent sides never count."""
    row = pair(told, shown=[(name, 0.9) for name in shown])
    assert {rule for rule in ("shared", "same", "none") if kept(row, agreement=rule)} == rules


def test_a_type_below_the_threshold_does_not_make_sides_differ():
    """Sets are of what is sure: an unsure meeting beside a sure attack leaves the sides the same."""
    row = pair(shown=[(ATTACK, 0.9), (MEET, 0.79)])
    (only,) = select([row], Thresholds(), "same").kept
    assert only.image_types == (ATTACK,)


def test_an_unsure_side_is_silent_where_each_side_stands_alone():
    """With agreement none the other side's examples are there, its own are not."""
    roles = [LabelledArgument(ATTACK, Span(1, 3), REBELS, "Attacker", 0.9)]
    objects = [LabelledObject(GUN, "Instrument", 0.9)]
    selection = select([pair(path=0.7, arguments=roles, objects=objects)], Thresholds(), "none")
    assert selection.examples == {"td_pseudo": 0, "ae_pseudo": 0, "vc_pseudo": 1, "rc_pseudo": 1}


@pytest.mark.parametrize(("sure", "keeps"), [(0.8, False), (0.8000000001, True)])
def test_roles_must_be_surer_than_their_own_threshold(sure, keeps):
    """None is a role as any other; ae and rc have thresholds of their own."""
    roles = {REBELS: "Attacker", TWO: "None"}
    arguments = [LabelledArgument(ATTACK, Span(1, 3), span, role, sure) for span, role in roles.items()]
    objects = [LabelledObject(GUN, "Instrument", sure), LabelledObject(CROWD, "None", sure)]
    row = pair(arguments=arguments, objects=objects)
    (only,) = select([row], Thresholds()).kept
    assert len(only.text_arguments) == len(only.image_arguments) == (2 if keeps else 0)
    (only,) = select([row], Thresholds(ae=0.5, rc=0.9)).kept
    assert (len(only.text_arguments), len(only.image_arguments)) == (2, 0)


def test_a_role_outside_the_schema_is_dropped():
    """Victim is a role of a death, not of an attack; an image's role must fit any of its types. None always fits."""
    arguments = [
        LabelledArgument(ATTACK, Span(1, 3), REBELS, "Victim", 0.9),
        LabelledArgument(DIE, Span(4, 5), TWO, "Victim", 0.9),
    ]
    objects = [LabelledObject(GUN, "Victim", 0.9), LabelledObject(CROWD, "None", 0.9)]
    attack = pair([ATTACK, DIE], arguments=arguments, objects=objects)
    both = replace(attack, types=pair(shown=[(ATTACK, 0.9), (DIE, 0.81)]).types)
    for row, strict, images in ((attack, True, 1), (attack, False, 2), (both, True, 2)):
        (only,) = select([row], Thresholds(), "shared", strict).kept
        assert len(only.text_arguments) == (1 if strict else 2)
        assert len(only.image_arguments) == images


@pytest.fixture
def labelled(tmp_path):
    """Rows of an agreeing, a quiet and a disagreeing pair, with their image files."""
    arguments = [
        LabelledArgument(ATTACK, Span(1, 3), REBELS, "Attacker", 0.95),
        LabelledArgument(ATTACK, Span(1, 3), TWO, "None", 0.85),
    ]
    objects = [LabelledObject(GUN, "Instrument", 0.9), LabelledObject(CROWD, "Target", 0.3)]
    (tmp_path / "images").mkdir()
    rows = [
        pair(shown=[(ATTACK, 0.9), (MEET, 0.95)], arguments=arguments, objects=objects),
        pair((), shown=(), name="D_1", asked=False),
        pair([DIE], shown=[(MEET, 0.9)], name="D_2", asked=False),
    ]
    for row in rows:
        (tmp_path / "images" / row.image).write_bytes(b"")
    return rows


def test_kept_pairs_become_the_tasks_own_examples(pseudo_store, labelled, tmp_path):
    """By hand: one sentence, two entities, one image with two types, one object; numbers are the ontology's."""
    found = pseudo_examples(PseudoLabels(store=pseudo_store(labelled)), TASKS)
    ontology, path = m2e2(), tmp_path / "images" / "D_0.jpg"
    (trigger,) = found["td_pseudo"]
    assert isinstance(trigger, TriggerExample) and trigger.words == WORDS
    assert mentions([ontology.tags[tag] for tag in trigger.tags]) == [(ATTACK, Span(1, 3))]
    assert found["ae_pseudo"] == [
        ArgumentExample(WORDS, REBELS, Span(1, 3), ATTACK, ontology.roles.index("Attacker")),
        ArgumentExample(WORDS, TWO, Span(1, 3), ATTACK, 0),
    ]
    (shown,) = found["vc_pseudo"]
    assert isinstance(shown, VerbExample) and shown.path == path
    assert {ontology.types[number] for number in shown.types} == {ATTACK, MEET}
    assert found["rc_pseudo"] == [RoleExample(path, GUN, ontology.roles.index("Instrument"))]


def test_only_the_tasks_asked_for(pseudo_store, labelled):
    """Twins of the tasks in their order; one without examples is left out; each side alone gives more."""
    store = pseudo_store(labelled)
    assert list(pseudo_examples(PseudoLabels(store=store), ("vc", "td"))) == ["vc_pseudo", "td_pseudo"]
    strict = PseudoLabels(store=store, threshold=Thresholds(rc=0.95))
    assert list(pseudo_examples(strict, TASKS)) == ["td_pseudo", "ae_pseudo", "vc_pseudo"]
    alone = pseudo_examples(PseudoLabels(store=store, agreement="none"), TASKS)
    assert {term: len(own) for term, own in alone.items()} == {
        "td_pseudo": 2, "ae_pseudo": 2, "vc_pseudo": 2, "rc_pseudo": 1,
    }  # fmt: skip


def test_what_a_store_cannot_answer_is_told(pseudo_store, labelled, tmp_path):
    """Each message names the setting, what was found and what to do."""

    def refused(tasks=TASKS, **spec):
        with pytest.raises(ValueError, match=r"^multitask\.pseudo\.") as error:
            pseudo_examples(PseudoLabels(**spec), tasks)
        return str(error.value)

    assert "xmtl pseudo-label" in refused(store=None)
    assert "multitask.pseudo.store: " in refused(store=tmp_path / "none")
    store = pseudo_store(labelled)
    low = refused(store=store, threshold=Thresholds(vc=0.4))
    assert low.startswith("multitask.pseudo.threshold.vc: found 0.4, expected at least 0.5") and "distill.floor" in low
    assert pseudo_examples(PseudoLabels(store=store, threshold=Thresholds(td=0.5, vc=0.5, ae=0.1)), TASKS)
    nothing = refused(store=store, threshold=Thresholds(td=0.95))
    assert "keep none of the 3 pairs" in nothing and nothing.endswith("0.5 1, 0.6 1, 0.7 1, 0.8 1, 0.9 0, 0.95 0")
    (tmp_path / "images" / "D_0.jpg").unlink()
    assert "1 of 1 kept images are gone, e.g. " in refused(store=store)
    partial = pseudo_store(labelled, tasks=("td", "vc"), name="partial")
    assert "without a teacher of rc" in refused(("rc",), store=partial)
    (store / "store.json").unlink()
    assert "the same command again goes on" in refused(store=store)
