"""The synthetic corpus: its shape, its sentences, that only pictures tell what they should, and that nothing leaks."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.corpus import app
from xmtl_ray.data import audit, images, videollama2, videos
from xmtl_ray.data.corpus import compose, read_facts, write_corpus
from xmtl_ray.data.corpus_drawing import file_of
from xmtl_ray.data.corpus_media import FPS, film
from xmtl_ray.data.corpus_names import LANGUAGES, corpus_data, invent_names
from xmtl_ray.data.corpus_plan import PARTS, SIZES, Plan, plans, shares
from xmtl_ray.data.corpus_pretraining import description, pretraining_texts, write_pretraining
from xmtl_ray.data.corpus_text import Writer, entries, lines
from xmtl_ray.data.leaks import Images
from xmtl_ray.data.world_decoys import UNMAPPED
from xmtl_ray.data.world_scenes import SCENES
from xmtl_ray.data.world_text import chance_of
from xmtl_ray.evaluation import generative
from xmtl_ray.events.answers import read_samples
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import DataError

PRETRAINING = 120
BLOCKS = [(language, name) for language in LANGUAGES for name in (*m2e2().types, "neutral")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, 0, "small")
    write_pretraining(folder / "pretraining", 0, PRETRAINING, corpus=folder)
    return folder


@pytest.fixture(scope="module")
def parts(corpus):
    return {part: videollama2.read(corpus / f"{part}.json") for part in PARTS}


@pytest.fixture(scope="module")
def facts(corpus):
    return {row.id: row for row in read_facts(corpus)}


def block_of(language, name):
    data = corpus_data()["languages"][language]
    return data["neutral"] if name == "neutral" else data["events"][name]


def many(language, count=400):
    """As many texts with their events as asked for, of all kinds."""
    writer = Writer(language, invent_names(0)["train", language], chance_of(0, f"many {language}"))
    types = m2e2().types
    for number in range(count):
        first, second = types[number % 8], types[(number + 3) % 8]
        yield writer.sentence([first])
        yield writer.sentence([first, second])
        yield writer.neutral(first)
        yield writer.beside(writer.caption(first))


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_and_size_give_the_same_bytes_from_any_number_of_processes(corpus, tmp_path):
    """Two other processes under another PYTHONHASHSEED write the same files as this one."""
    code = "import sys; from pathlib import Path\nfrom xmtl_ray.data.corpus import write_corpus\n"
    code += "from xmtl_ray.data.corpus_pretraining import write_pretraining\nif __name__ == '__main__':\n"
    code += "    out = Path(sys.argv[1]); write_corpus(out, 0, 'small', processes=2)\n"
    code += f"    write_pretraining(out / 'pretraining', 0, {PRETRAINING}, processes=2, corpus=out)\n"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=environment)
    assert digest(tmp_path / "again") == digest(corpus)


def test_paper_size_has_the_sums_of_the_papers_table():
    planned = plans(0, SIZES["paper"])
    assert len(planned) == len({plan.id for plan in planned}) == 5728
    assert Counter(plan.language for plan in planned) == {"en": 1197, "zh": 1844, "ru": 1449, "es": 1238}
    assert Counter(plan.modality for plan in planned) == {"text": 3449, "image": 1971, "video": 308}
    tested = [plan for plan in planned if plan.part == "test"]
    assert Counter(plan.language for plan in tested) == dict.fromkeys(LANGUAGES, 80)
    assert Counter(plan.modality for plan in tested) == {"text": 192, "image": 112, "video": 16}
    assert sum(not plan.types for plan in planned) / 5728 == pytest.approx(0.08, abs=0.005)
    for part in PARTS:
        shown = [plan for plan in planned if plan.part == part and plan.modality != "text"]
        assert sum(plan.needs_picture for plan in shown) / len(shown) == pytest.approx(0.5, abs=0.02)
        counts = Counter(plan.types[0] for plan in shown if plan.types)
        assert len(counts) == 8 and max(counts.values()) - min(counts.values()) <= 2


def test_shares_are_whole_and_near_even():
    """Three of ten are red and six of ten small: of three red ones 1.8 would be small."""
    table = shares({"red": 3, "blue": 7}, {"text": 6, "image": 4})
    assert table == {("red", "text"): 2, ("red", "image"): 1, ("blue", "text"): 4, ("blue", "image"): 3}


def test_files_hold_what_was_planned(corpus, parts, facts):
    counts = json.loads((corpus / "corpus.json").read_text())["counts"]
    assert {part: len(rows) for part, rows in parts.items()} == {"train": 304, "dev": 48, "test": 48}
    assert [counts[part] for part in PARTS] == [304, 48, 48]
    assert facts.keys() == {row.id for rows in parts.values() for row in rows}
    for part, rows in parts.items():
        for row in rows:
            assert facts[row.id].part == part and row.id.startswith("synthetic-")
            if row.media is not None:
                assert (corpus / row.media.path).is_file()
    assert "Nothing in it is real" in (corpus / "README.md").read_text()


def test_answers_are_of_the_format_and_short(parts, facts):
    """Triggers and arguments are words of the text; roles belong to their type; an answer has at most 60 words."""
    for rows in parts.values():
        for row in rows:
            sample = videollama2.sample(row, "corpus")
            assert row.turns[0].prompt == videollama2.prompt(row.language, sample.source)
            assert row.turns[0].answer == dumps(sample.events)
            assert len(row.turns[0].answer.split()) <= 60
            assert sorted(event.event_type for event in sample.events) == sorted(facts[row.id].types)
            for event in sample.events:
                assert event.trigger in sample.source
                assert 0 < len(event.arguments) <= 4
                for role, text in event.arguments:
                    assert m2e2().allows(event.event_type, role) and text and text in sample.source


def test_gold_answers_score_full_marks_and_show_no_error(corpus, parts):
    for part in ("dev", "test"):
        samples = read_samples(corpus / f"{part}_samples.jsonl")
        assert samples == tuple(videollama2.sample(row, part) for row in parts[part])
        found = generative.report(samples, {row.id: row.turns[0].answer for row in parts[part]})
        assert [found[what]["overall_mean_of_languages"] for what in ("trigger", "argument")] == [100.0, 100.0]
        assert not found["categories"]


def test_nothing_of_the_test_part_is_in_the_others(corpus, parts):
    """No same or nearly same text or picture, by the checks of data for training; no record without its medium."""

    def source(part):
        return audit.Source(part, videollama2.stream(corpus / f"{part}.json"), media=corpus)

    found = audit.audit([source("train"), source("dev")], against=[source("test")])
    assert [(finding.kind, finding.examples) for finding in found.findings] == []
    # Sentences alone, and Chinese by its signs, which the audit cannot tell apart as words.
    texts = {part: {re.sub(r"\W", "", videollama2.source(row).casefold()) for row in parts[part]} for part in PARTS}
    assert not texts["test"] & (texts["train"] | texts["dev"]) and not texts["dev"] & texts["train"]
    assert all(len(texts[part]) == len(parts[part]) for part in PARTS)


def test_no_video_ends_as_one_of_the_test_part_does(corpus, parts, tmp_path):
    """By the perceptual hash of the last frame as it is decoded; against pictures, too."""
    known = Images()
    looked = {part: [(row.id, *_hashes(corpus, row, tmp_path)) for row in parts[part] if row.media] for part in PARTS}
    for row in looked["test"]:
        known.remember(*row)
    assert len(looked["train"]) == 112
    assert not [name for part in ("train", "dev") for name, *hashes in looked[part] if known.like(*hashes)]


def _hashes(corpus, row, folder):
    path = corpus / row.media.path
    if row.media.kind == "image":
        return images.hashes(path)
    frames(path)[-1].save(folder / "last.png")
    return images.hashes(folder / "last.png")


def frames(path):
    with av.open(str(path)) as video:
        return [frame.to_image() for frame in video.decode(video=0)]


def test_test_texts_have_names_that_no_other_text_has(parts):
    names = invent_names(0)
    for language in LANGUAGES:
        test, others = (names[use, language] for use in ("test", "train"))
        assert not {*test.last, *test.town, *test.firm} & {*others.last, *others.town, *others.firm}
        own = re.compile("|".join((*test.last, *test.town, *test.firm)))
        for part in PARTS:
            texts = [videollama2.source(row) for row in parts[part] if row.language == language]
            assert all((own.search(text) is not None) == (part == "test") for text in texts)


def test_a_neutral_caption_is_the_same_for_every_type(facts):
    """What needs its picture has words that are drawn without its type; its roles follow from the type."""
    names = invent_names(0)
    for row in facts.values():
        if not row.needs_picture:
            continue
        told = {
            event_type: compose(
                Plan(row.id, row.language, row.modality, row.part, (event_type,) if event_type else (), True),
                names["test" if row.part == "test" else "train", row.language],
                seed=0,
            )
            for event_type in (*m2e2().types, "")
        }
        assert len({one.text for one in told.values()}) == 1
        assert not told[""].events
        assert len({one.events[0].trigger for name, one in told.items() if name}) == 1
        attack, arrest = (told[name].events[0] for name in ("Conflict:Attack", "Justice:Arrest-Jail"))
        assert [text for _, text in attack.arguments] == [text for _, text in arrest.arguments]
        renamed = {"Attacker": "Agent", "Target": "Person", "Place": "Place"}
        assert [renamed[role] for role, _ in attack.arguments] == [role for role, _ in arrest.arguments]


@pytest.mark.parametrize(("language", "name"), BLOCKS)
def test_every_type_has_words_and_templates_enough(language, name):
    block = block_of(language, name)
    assert len({word for words in block["triggers"].values() for word in words}) >= 6
    assert len(set(lines(block["templates"]))) >= 8
    used = set(re.findall(r"\[(\w+)", block["templates"]))
    assert used == block["triggers"].keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_word_lists_give_every_form(language):
    """As many forms as there are cases, or one; as many to agree with as there are numbers or codes, or one."""
    data = corpus_data()["languages"][language]
    for name in data["classes"]:
        assert len(entries(language, name)) >= (2 if name == "person" else 5)
        for entry in entries(language, name):
            assert len(entry.forms) in {1, max(1, len(data["cases"]))}
            assert len({len(re.findall("<", form)) for form in entry.forms}) == 1
    text = json.dumps([data["events"], data["neutral"]], ensure_ascii=False)
    # Where only a case is chosen, a noun has one form.
    inflected = re.findall(r'"([^"@]*/[^"@]*)"|\{([^}@]*/[^}]*)@', text)
    counts = {len((word or phrase).split("/")) for word, phrase in inflected}
    assert counts <= {2, max(2, len(data["codes"]))}
    assert bool(counts) == (language != "zh")


def test_verbs_agree_with_who_acts():
    """Gender and number by words whose forms anybody knows."""
    subjects = {
        "ru": {"полиция": "а", "полицейские": "и", "патруль": "л"},
        "es": {"la policía": ("ó", "detuvo"), "los agentes": ("on",), "una patrulla": ("ó", "detuvo")},
    }
    for language, endings in subjects.items():
        writer = Writer(language, invent_names(0)["train", language], chance_of(1, "agreement"))
        acting = corpus_data()["languages"][language]["events"]["Justice:Arrest-Jail"]["triggers"]["act"]
        forms, seen = {form for word in acting for form in word.split("/")}, set()
        for _ in range(600):
            (event,) = writer.sentence(["Justice:Arrest-Jail"]).events
            agent = next((text.lower() for role, text in event.arguments if role == "Agent"), "")
            if agent in endings and event.trigger in forms:
                assert event.trigger.endswith(endings[agent]), (agent, event.trigger)
                seen.add(agent)
        assert seen == endings.keys()


def test_what_agrees_with_two_is_plural_and_feminine_for_women_only():
    writing = Writer("es", invent_names(0)["train", "es"], chance_of(0, "two"))._written()
    forms = "visto/vista/vistos/vistas"
    assert writing.agreeing(forms, "First+Second", {"First": "fs", "Second": "fp"}) == "vistas"
    assert writing.agreeing(forms, "First+Second", {"First": "fs", "Second": "ms"}) == "vistos"
    assert writing.agreeing(forms, "First", {"First": "fs"}) == "vista"
    assert writing.agreeing("vio/vieron", "Entity+Entity", {"Entity": "ms", "Entity+": "fs"}) == "vieron"


@pytest.mark.parametrize(
    ("language", "letters", "forbidden"),
    [
        ("en", r"[^\W\d_a-zA-Z]", r" a [aeiou]|  |\ban [^aeioh]"),
        ("es", r"[^\W\d_a-zA-ZáéíóúñüÁÉÍÓÚÑ]", r"\b(?:de|a) el\b|  |\by (?:i|hi[^e])|\ba a\b"),
        # "с" and "в" become "со" and "во" before such beginnings.
        ("ru", r"[^\W\d_а-яА-ЯёЁ]", r"(?i)\bс [сзшж][бвгджзклмнпрстфхцчшщ]|\bв [вф][бвгджзклмнпрстфхцчшщ]|  "),
        ("zh", r"[a-zA-Zа-яА-Я]", r"\s|的的|，，|。。|了了"),
    ],
)
def test_sentences_are_in_their_script_and_well_joined(language, letters, forbidden):
    for told in many(language):
        assert not re.search(letters, told.text), told.text
        assert not re.search(forbidden, told.text), told.text
        assert not re.search(r"[<>\[\]{}|@/]", told.text), told.text
        assert told.text[0] == told.text[0].upper() and told.text[-1] in ".。"


def test_two_events_have_their_own_arguments():
    """Each event's trigger and arguments stand in one clause, apart from the other's."""
    writer = Writer("en", invent_names(0)["train", "en"], chance_of(0, "pairs"))
    for _ in range(100):
        told = writer.sentence(["Justice:Arrest-Jail", "Conflict:Demonstrate"])
        assert {event.event_type for event in told.events} == {"Justice:Arrest-Jail", "Conflict:Demonstrate"}
        places = [told.text.index(event.trigger) for event in told.events]
        assert places == sorted(places)
        assert not {role for role, _ in told.events[1].arguments} & {"Agent", "Person"}


def test_videos_are_what_they_should_be_and_move(corpus, parts, facts):
    rows = [row for row in parts["test"] if row.media and row.media.kind == "video"]
    assert len(rows) == 8
    for row in rows:
        found = videos.probe(corpus / row.media.path)
        assert (found.width, found.height, found.fps, found.codec) == (128, 96, FPS, "h264")
        assert found.frames in {12, 16, 20, 24}
        first, last = (
            np.asarray(frame, dtype=float) for frame in (frames(corpus / row.media.path)[k] for k in (0, -1))
        )
        assert np.abs(first - last).mean() > 3, (row.id, facts[row.id].drawn)


def test_most_videos_show_nothing_of_their_scene_at_first():
    """The banknotes that are handed over are in the last frame, and in the first only where the scene passes by."""
    moved = Counter()
    for number in range(30):
        shown = film(chance_of(number, "film"), "Transaction:Transfer-Money")
        notes = [np.abs(np.asarray(frame, dtype=int) - (95, 175, 95)).max(axis=-1) < 15 for frame in shown.frames]
        greens = [int(notes[at].sum()) for at in (0, -1)]
        assert greens[1] > 20
        assert (greens[0] > 20) == (shown.motion == "passes")
        moved[shown.motion] += 1
    assert all(moved[name] >= 4 for name in ("enters", "cut", "passes"))


def test_every_scene_that_is_drawn_has_a_description():
    verbs = {verb for _, verbs in SCENES.values() for verb in verbs} | set(UNMAPPED)
    for language in LANGUAGES:
        assert all(description(verb, language) for verb in verbs)
    assert description("reading", "en") == "A person reads a book."


def test_pretraining_teaches_no_event_and_shares_no_name(corpus):
    rows = videollama2.read(corpus / "pretraining" / "pretrain.json")
    assert len(rows) == len({row.id for row in rows}) == PRETRAINING
    assert Counter(row.language for row in rows) == dict.fromkeys(LANGUAGES, PRETRAINING / 4)
    names = invent_names(0)
    taught = re.compile(
        "|".join((*map(re.escape, m2e2().types), "event_type", "events", "trigger", "arguments", "role"))
    )
    for row in rows:
        (turn,) = row.turns
        assert turn.prompt and turn.answer and not taught.search(turn.prompt + turn.answer)
        others = [names[use, row.language] for use in ("train", "test")]
        known = {name for other in others for name in (*other.last, *other.town, *other.firm)}
        assert not [name for name in known if name in turn.prompt + turn.answer]
        if row.media:
            assert (corpus / "pretraining" / row.media.path).is_file()
    kinds = Counter(row.media.kind if row.media else "text" for row in rows)
    assert kinds["image"] > 20 and kinds["text"] > 40 and kinds["video"] >= 1


def test_what_is_copied_in_pretraining_is_in_its_text():
    tasks = corpus_data()["tasks"]
    verbs = [name.split("|")[0] for name in corpus_data()["scenes"]]
    scenes = {language: {description(verb, language) for verb in verbs} for language in LANGUAGES}
    for row in pretraining_texts(3, 200):
        (turn,) = row.turns
        asked, _, text = turn.prompt.partition("\n")
        if asked == tasks[row.language]["repeat"]:
            assert turn.answer == text
        elif asked == tasks[row.language]["marked"]:
            parts = json.loads(turn.answer)["parts"]
            assert [part["text"] for part in parts] == re.findall(r"\*(.*?)\*", text)
            assert [part["number"] for part in parts] == list(range(1, len(parts) + 1))
        elif asked == tasks[row.language]["about"]:
            assert turn.answer in scenes[row.language]
        elif asked != tasks[row.language]["continue"]:
            cue = re.search("“(.*)”", asked).group(1)
            assert text.count(cue) == 1
            gap = "" if row.language == "zh" else " "
            assert f"{cue}{gap}{turn.answer}" in text
            assert len(turn.answer.split()) <= 4


def test_pictures_of_pretraining_are_like_none_of_the_test_part(corpus, facts):
    known = Images()
    for row in facts.values():
        if row.part == "test" and row.drawn is not None:
            known.remember(row.id, row.drawn.digest, row.drawn.perceptual)
    shown = sorted((corpus / "pretraining" / "images").iterdir())
    assert shown and not [path for path in shown if known.like(*images.hashes(path))]


def test_what_looks_like_something_to_avoid_is_drawn_anew(tmp_path):
    """The same record drawn with its own first picture to be avoided is another picture."""
    from itertools import starmap

    from xmtl_ray.data.corpus_drawing import draw_all

    plan = Plan("synthetic-en-image-0000", "en", "image", "train", ("Contact:Meet",))
    (first,) = draw_all(starmap, tmp_path / "a", "corpus", 0, [plan])
    (again,) = draw_all(starmap, tmp_path / "b", "corpus", 0, [plan])
    (other,) = draw_all(starmap, tmp_path / "c", "corpus", 0, [plan], avoid=[first])
    assert again == first and other.digest != first.digest
    assert images.hashes(tmp_path / "c" / file_of(plan.id, "image")) == (other.digest, other.perceptual)


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(DataError, match="small, paper"):
        write_corpus(tmp_path, 0, "huge")


def test_the_verb_writes_both_and_refuses_a_folder_in_use(tmp_path):
    run = CliRunner().invoke(app, [str(tmp_path / "c"), "--size", "small", "--seed", "1", "--pretraining", "8"])
    assert run.exit_code == 0, run.output
    assert "304 train" in run.output
    assert len(videollama2.read(tmp_path / "c" / "pretraining" / "pretrain.json")) == 8
    again = CliRunner().invoke(app, [str(tmp_path / "c"), "--size", "small"])
    assert again.exit_code == 2 and "expected a new or empty folder" in again.output


def test_more_pretraining_begins_with_the_same_texts():
    assert list(islice(pretraining_texts(0, 30), 10)) == pretraining_texts(0, 10)
