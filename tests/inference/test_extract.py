"""Documents to events by a small real model whose last layers are solved for a known answer."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from xmtl_ray.config.load import load
from xmtl_ray.data import m2e2 as m2e2_files
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.prompts import entity_prompt, object_prompt
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    Box,
    DetectedObject,
    Document,
    Entity,
    Image,
    MultimediaEvent,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.inference.extract import Extractor
from xmtl_ray.models import weights
from xmtl_ray.models.inputs import Inputs, normalise

ATTACK, DIE, MEET = "Conflict:Attack", "Life:Die", "Contact:Meet"
REBELS, VILLAGE, TWO = Span(0, 1), Span(5, 6), Span(7, 8)
FIRST = Sentence(
    "D_0",
    ("Rebels", "opened", "fire", "on", "the", "village", "killing", "two"),
    entities=(Entity(REBELS, "PER"), Entity(VILLAGE, "LOC"), Entity(TWO, "PER")),
)
SECOND = Sentence("D_1", ("Ministers", "met", "yesterday"), entities=(Entity(Span(0, 1), "PER"),))
QUIET = Sentence("D_2", ("Nothing", "happened"), entities=(Entity(Span(0, 1), "PER"),))
EMPTY = Sentence("D_3", ())

# What the last layers are solved for: roles of FIRST's and SECOND's entities in turn, types of images with their
# scores, roles of boxes. "Victim" is a role of a death and, by the schema, none of an attack.
TOLD = {
    "D_0": {(ATTACK, Span(1, 3)): ("Attacker", "Place", "Victim"), (DIE, Span(6, 7)): ("Agent", "None", "Victim")},
    "D_1": {(MEET, Span(1, 2)): ("Entity",)},
}
GUN, CROWD, CAR = (Box(*corners) for corners in ((2, 2, 20, 12), (24, 4, 44, 30), (5, 15, 21, 31)))
SHOWN = {
    "D_0": ([(ATTACK, 4.0), (DIE, 2.0)], {GUN: "Instrument", CROWD: "Victim", CAR: "None"}),
    "D_1": ([], {GUN: "Instrument"}),
}
MODEL = ["model.built_text.width=64", "model.built_image.width=64", "model.shared.width=64"]


def settings(*overrides):
    base = ["data.root=/nowhere", "inference.object_confidence=0.8", "train.seed=5", *MODEL]
    return load("xmtl_smoke", [*base, *overrides])


def states_of(head, model, inputs):
    """The rows that ``inputs`` bring to a linear layer of the model."""
    rows = []
    hook = head.register_forward_pre_hook(lambda _, given: rows.append(given[0].flatten(0, -2)))
    model(inputs)
    hook.remove()
    return rows[0]


def solve(head, states, wanted):
    """Give a linear layer the weights that map ``states`` to ``wanted`` exactly: fewer rows than columns."""
    assert len(states) == len(wanted) < states.shape[1]
    states = torch.cat([states.double(), torch.ones(len(states), 1)], 1)
    solution = torch.linalg.lstsq(states, wanted.double(), driver="gelsd").solution
    head.weight.data, head.bias.data = solution[:-1].T.float().contiguous(), solution[-1].float()


def one_hot(labels, names):
    return 8.0 * torch.nn.functional.one_hot(torch.tensor([names.index(label) for label in labels]), len(names)) - 4


def bio(sentence):
    found = ["O"] * len(sentence.words)
    for (kind, trigger), _ in TOLD.get(sentence.id, {}).items():
        found[trigger.start : trigger.end] = [f"B-{kind}", *[f"I-{kind}"] * (trigger.end - trigger.start - 1)]
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two pictures of noise with three detections, and one whose file is not at hand."""
    folder = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    made = []
    for name in SHOWN:
        Picture.fromarray(noise.integers(0, 256, (32, 48, 3), dtype=np.uint8)).save(folder / f"{name}.png")
        objects = tuple(DetectedObject(box, "thing", 0.8) for box in (GUN, CROWD, CAR))
        made.append(Image(name, folder / f"{name}.png", (), objects))
    return [*made, Image("D_9", None, (), made[0].objects)]


@pytest.fixture(scope="module")
@torch.no_grad()
def taught(images):
    """A model with random encoders whose four last layers are solved for TOLD and SHOWN; its CRF is neutral."""
    torch.set_num_threads(1)
    config, ontology = settings(), m2e2()
    sentences = [FIRST, SECOND, QUIET]
    loaded = weights.create(config, weights.make_tokenizer(config, [sentence.words for sentence in sentences]))
    model, codec = loaded.model.eval(), loaded.codec
    for parameter in model.crf.parameters():
        torch.nn.init.zeros_(parameter)
    words = [states_of(model.td.scores, model, Inputs(codec([sentence.words]), None)) for sentence in sentences]
    tags = [tag for sentence in sentences for tag in bio(sentence)]
    solve(model.td.scores, torch.cat(words), one_hot(tags, ontology.tags))

    prompt, asked, roles = config.data.text_prompt, [], []
    for sentence in sentences:
        for (kind, trigger), answers in TOLD.get(sentence.id, {}).items():
            for entity, role in zip(sentence.entities, answers, strict=True):
                asked.append(entity_prompt(sentence.words, entity.span, trigger, kind, prompt.marker, True))
                roles.append(role)
    solve(
        model.ae.scores,
        states_of(model.ae.scores, model, Inputs(codec([], asked), None)),
        one_hot(roles, ontology.roles),
    )

    visual = config.data.visual_prompt
    canvases, whole, marked, types, visual_roles = Canvases(visual.canvas_px, 8), [], [], [], []
    for image in images[:2]:
        canvas, (shown, role_of) = canvases(image.path), SHOWN[image.id]
        whole.append(canvas.array)
        types.append([dict(shown).get(kind, -4.0) for kind in ontology.types])
        for box, role in role_of.items():
            marked.append(object_prompt(canvas.array, canvas.fractions(box), visual.line_px, visual.color))
            visual_roles.append(role)
    solve(
        model.vc.scores, states_of(model.vc.scores, model, Inputs(None, normalise(whole, 96), 2)), torch.tensor(types)
    )
    solve(
        model.rc.scores,
        states_of(model.rc.scores, model, Inputs(None, normalise(marked, 96))),
        one_hot(visual_roles, ontology.roles),
    )
    return loaded


def told(sentence, schema_filter=True):
    """The text events that the model was solved for."""
    return tuple(
        TextEvent(kind, trigger, tuple(
            TextArgument(role, entity.span)
            for entity, role in zip(sentence.entities, roles, strict=True)
            if role != "None" and (m2e2().allows(kind, role) or not schema_filter)
        ))
        for (kind, trigger), roles in TOLD[sentence.id].items()
    )  # fmt: skip


def shown(kind, **roles):
    return VisualEvent(kind, tuple(VisualArgument(role, box) for role, box in roles.items()))


def extract(taught, documents, *overrides):
    return Extractor([taught], settings(*overrides).inference)(documents)


def test_a_document_becomes_its_events(taught, images):
    """Text, image and pairs as solved for; an empty sentence, a quiet one, an image without a file have none."""
    document = Document("D", (FIRST, EMPTY, SECOND, QUIET), tuple(images))
    assert extract(taught, [document]) == Predictions(
        {"D_0": told(FIRST), "D_1": told(SECOND)},
        {"D_0": (shown(ATTACK, Instrument=GUN), shown(DIE, Instrument=GUN, Victim=CROWD))},
        (MultimediaEvent("D_0", "D_0", ATTACK), MultimediaEvent("D_0", "D_0", DIE)),
    )


def test_the_schema_filter_drops_roles_that_the_type_lacks(taught, images):
    """The model says "Victim" of an attack: dropped, or kept where the filter is off, in text and image alike."""
    document = Document("D", (FIRST,), (images[0],))
    assert not m2e2().allows(ATTACK, "Victim") and m2e2().allows(DIE, "Victim")
    found = extract(taught, [document], "inference.schema_filter=false")
    assert found.text["D_0"] == told(FIRST, schema_filter=False)
    assert TextArgument("Victim", TWO) in found.text["D_0"][0].arguments
    assert TextArgument("Victim", TWO) not in told(FIRST)[0].arguments
    both = {"Instrument": GUN, "Victim": CROWD}
    assert found.image["D_0"] == (shown(ATTACK, **both), shown(DIE, **both))


def test_only_the_most_probable_type_gets_arguments_where_asked(taught, images):
    """all_types off: the death, less probable than the attack, is still an event but has no argument."""
    document = Document("D", (), (images[0],))
    found = extract(taught, [document], "inference.all_types=false")
    assert found.image["D_0"] == (shown(ATTACK, Instrument=GUN), shown(DIE))


@pytest.mark.parametrize(("confidence", "counts"), [(0.8, True), (float(np.nextafter(0.8, 0)), False), (1.0, True)])
def test_a_confidence_of_exactly_the_threshold_counts(taught, images, confidence, counts):
    """0.8 is enough, the next smaller number is not."""
    objects = tuple(replace(item, confidence=confidence) for item in images[0].objects)
    found = extract(taught, [Document("D", (), (replace(images[0], objects=objects),))])
    assert found.image["D_0"][0] == (shown(ATTACK, Instrument=GUN) if counts else shown(ATTACK))


def test_a_probability_of_exactly_the_threshold_is_no_event(taught, images):
    """Scores of 0 are probabilities of 0.5: none at 0.5, all eight types just below it, in the ontology's order."""
    head = taught.model.vc.scores
    before = head.weight.data, head.bias.data
    try:
        head.weight.data, head.bias.data = torch.zeros_like(head.weight), torch.zeros_like(head.bias)
        document = Document("D", (), (images[0],))
        assert extract(taught, [document], "inference.verb_threshold=0.5").image == {}
        found = extract(taught, [document], "inference.verb_threshold=0.4999")
        assert tuple(event.type for event in found.image["D_0"]) == m2e2().types
    finally:
        head.weight.data, head.bias.data = before


@pytest.mark.parametrize("documents", [[], [Document("D", (), ())], [Document("D", (EMPTY,), ())]])
def test_nothing_to_read_is_nothing_found(taught, documents):
    """No document, an empty one, one with an empty sentence."""
    assert extract(taught, documents) == Predictions({}, {}, ())


@pytest.mark.parametrize("word", ["\x00", "\u200b", "\ufffd"])
def test_a_sentence_that_the_tokenizer_has_no_piece_for_stops_nothing(taught, word):
    """Control characters alone, beside a real sentence: that one's events are as before."""
    odd = Sentence("D_5", (word,), entities=(Entity(Span(0, 1), "PER"),))
    for documents in ([Document("D", (odd, FIRST), ())], [Document("D", (odd,), ())]):
        found = extract(taught, documents).text
        assert found.get("D_0") == (told(FIRST) if FIRST in documents[0].sentences else None)


def test_pairs_stay_within_their_document(taught, images):
    """The sentence of one document and the image of another tell the same, but are no pair."""
    apart = [Document("D", (FIRST,), ()), Document("E", (), (images[0],))]
    found = extract(taught, apart)
    assert found.text and found.image and found.multimedia == ()


def test_without_candidates_events_have_no_arguments(taught, images):
    """No entities, no detections: the triggers and types are found all the same."""
    bare = Document("D", (replace(FIRST, entities=()),), (replace(images[0], objects=()),))
    found = extract(taught, [bare])
    assert found.text["D_0"] == tuple(replace(event, arguments=()) for event in told(FIRST))
    assert found.image["D_0"] == (shown(ATTACK), shown(DIE))


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_batch_size_changes_nothing(taught, images, batch):
    """One input at a time, two, all: the solved answer each time."""
    document = Document("D", (QUIET, FIRST, EMPTY, SECOND), (images[2], images[0], images[1]))
    found = extract(taught, [document], f"inference.batch={batch}")
    assert found == extract(taught, [document])
    assert found.text == {"D_0": told(FIRST), "D_1": told(SECOND)}


def test_the_batch_size_changes_nothing_on_real_documents(taught, world):
    """World documents, where the model guesses wildly: hundreds of events and arguments, the same in threes."""
    documents = m2e2_files.read(world / "m2e2", objects=world / "m2e2/image_entity.json")[:3]
    wild = copy.deepcopy(taught)
    for head in (wild.model.ae, wild.model.rc):
        head.scores.bias.data[0] = -1e6  # never None
    settings = ["inference.verb_threshold=0.3", "inference.schema_filter=false"]
    small, large = (extract(wild, documents, f"inference.batch={size}", *settings) for size in (3, 64))
    assert small == large
    for found in (large.text, large.image):
        events = [event for some in found.values() for event in some]
        assert len(events) > 10 and sum(len(event.arguments) for event in events) > 10


@pytest.mark.parametrize(
    ("tasks", "text", "image"), [("[td]", True, False), ("[vc]", False, True), ("[ae,rc]", False, False)]
)
def test_a_task_that_the_model_lacks_is_not_predicted(images, tasks, text, image):
    """Without ae events have no arguments, without td there is no text event, without vc no visual one."""
    config = settings(f"multitask.tasks={tasks}", "inference.verb_threshold=0")
    loaded = weights.create(config, weights.make_tokenizer(config, [FIRST.words]))
    if text:
        loaded.model.td.scores.bias.data[m2e2().tags.index(f"B-{DIE}")] = 100
    found = Extractor([loaded], config.inference)([Document("D", (FIRST,), tuple(images))])
    deaths = tuple(TextEvent(DIE, Span(word, word + 1)) for word in range(len(FIRST.words)))
    assert found.text == ({"D_0": deaths} if text else {})
    assert set(found.image) == ({"D_0", "D_1"} if image else set())
    assert not any(event.arguments for events in found.image.values() for event in events)
    assert found.multimedia == ()
