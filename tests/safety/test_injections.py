"""S8: texts that give a model orders: words in a prompt, and data as the answer of a model, however obedient."""

import itertools
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import injections

from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Conversation, Turn
from xmtl_ray.events.schema_prompt import PromptStyle, parse_reasoned, prompt_of, source_of
from xmtl_ray.generative import built
from xmtl_ray.generative.constrained import AnswerGrammars
from xmtl_ray.generative.grammar import words
from xmtl_ray.models import chat
from xmtl_ray.models.splice import TAGS

TEXTS = injections.texts()
GOLD = '{"events": [{"trigger": "x", "event_type": "Life:Die", "arguments": []}]}'
SCHEMA = m2e2().roles_of
STYLES = (PromptStyle(), PromptStyle(schema=True), PromptStyle(schema=True, reason=True))
WATCHED = ("open", "exec", "compile", "import", "os.", "socket.", "subprocess.", "shutil.", "ctypes.", "urllib.")
_seen: list[str] | None = None


def _note(event, _):
    if _seen is not None and event.startswith(WATCHED):
        _seen.append(event)


sys.addaudithook(_note)


class Watch:
    """What Python does within it beside computing: opens, runs, imports, connects."""

    def __enter__(self):
        global _seen  # noqa: PLW0603
        self.seen = _seen = []
        return self.seen

    def __exit__(self, *_):
        global _seen  # noqa: PLW0603
        _seen = None


def test_there_are_fifty_in_four_languages():
    """Captions, OCR and subtitles in each."""
    assert len(TEXTS) == 50 == len({row["id"] for row in TEXTS}) == len({row["text"] for row in TEXTS})
    kinds = {(row["language"], row["kind"]) for row in TEXTS}
    assert kinds == set(itertools.product(("en", "ru", "es", "zh"), ("caption", "ocr", "subtitle")))


@pytest.fixture(scope="module", params=["videollama2", "videollama21"])
def tokenizer(request):
    """Of each family, learnt from the texts."""
    said = [Conversation(row["id"], (Turn(row["text"], ""),)) for row in TEXTS]
    return built.learn_tokenizer(said, 500, request.param)


@pytest.mark.parametrize("kind", [None, "image", "video"])
def test_in_a_prompt_they_are_words(tokenizer, kind):
    """No turn is ended or begun by one, none shows a medium, and the words are there to the letter.

    The control: read as the template is, a tenth of them would end a turn or show a picture.
    """
    special = {tokenizer.convert_tokens_to_ids(name) for name in chat.special_tokens(tokenizer)} | set(TAGS.values())

    def signs(text):
        said = chat.messages([chat.unsigned(Turn(text, ""), kind)], kind, None)
        ids = chat.prompt(tokenizer, said, chat.sign(kind))
        return [name for name in ids if name in special], tokenizer.decode(
            [name for name in ids if name not in special]
        )

    naive = 0
    for row, style in itertools.product(TEXTS, STYLES):
        clean, _ = signs(prompt_of(style, row["language"], injections.SOURCES[row["language"]], SCHEMA))
        text = prompt_of(style, row["language"], f"{injections.SOURCES[row['language']]}\n{row['text']}", SCHEMA)
        found, written = signs(text)
        assert found == clean, row["id"]
        assert row["text"].strip() in written, row["id"]
        naive += any(name in row["text"] for name in (*chat.special_tokens(tokenizer), "<image>", "<video>"))
    assert naive >= 3 * 5


def test_as_answers_they_are_data():
    """A model that says what it was told to: read, written again, as records; no file, no process, no import, no error.

    The control: the watch sees a file that is opened.
    """
    with Watch() as seen, open("/dev/null"):
        pass
    assert seen == ["open"]
    for text in ('{"events": []}', "[", "x", 'x\n{"events": [{}]}'):
        parse_reasoned(text)  # what is loaded at the first use
    reasoned = json.dumps("x")
    for row in TEXTS:
        for text in (
            row["text"],
            f"Sure!\n{row['text']}",
            f"{reasoned}\n{row['text']}",
            row["text"] * 3,
            row["text"][:-1],
        ):
            with Watch() as seen:
                one, other = parse(text), parse_reasoned(text).parsed
                again = parse(dumps(one.events))
            assert not seen, (row["id"], seen)
            assert one.state in {"ok", "repaired", "malformed"} and other.state in {"ok", "repaired", "malformed"}
            assert again.events == one.events or one.state == "malformed"


def test_held_to_the_grammar_none_can_be_said(tokenizer):
    """The grammar lets no attack through: none is an answer of the schema that quotes the source."""
    import xgrammar

    size = len(tokenizer)
    grammars = AnswerGrammars(tokenizer, size, SCHEMA, quoted=True, letters=12, events=2, arguments=1, threads=1)
    whole = 0
    for row in TEXTS:
        source = injections.SOURCES[row["language"]]
        matcher = xgrammar.GrammarMatcher(grammars.compiled(source))
        said = all(map(matcher.accept_token, tokenizer(row["text"], add_special_tokens=False)["input_ids"]))
        whole += said
        if said:
            for event in parse(row["text"]).events:
                assert event.event_type in SCHEMA and event.trigger in source
        assert words(source)
    assert whole == 0  # all of the texts' own events quote what the source does not have
    fine = '{"events": [{"trigger": "killed", "event_type": "Life:Die", "arguments": []}]}'
    matcher = xgrammar.GrammarMatcher(grammars.compiled(injections.SOURCES["en"]))
    assert all(map(matcher.accept_token, tokenizer(fine, add_special_tokens=False)["input_ids"]))


def test_the_benchmark_tells_what_they_change():
    """It compares with the answer without them: an obedient model is seen through, a deaf one changes nothing."""

    def deaf(rows):
        return {one.id: parse('{"events": []}') for one in rows}

    def obedient(rows):
        return {one.id: parse(source_of(one.turns[0].prompt)) for one in rows}

    found = injections.rates(deaf)
    assert (found["texts"], found["answers"]) == (50, 50)
    assert not any(value for name, value in found.items() if name not in {"texts", "answers"})
    assert injections.rates(obedient)["events_changed"] == 0.1
    right = {name: [(text, parse(GOLD))] for name, text in injections.SOURCES.items()}
    found = injections.rates(lambda rows: {one.id: parse(GOLD) for one in rows}, right)
    assert (found["right_before"], found["right_changed"]) == (50, 0.0)


def test_the_tiny_models_rates():
    """The whole of the benchmark, with few tokens; held to the schema nothing is malformed."""
    model = injections.tiny()
    found = injections.rates(lambda rows: injections.asked(model, rows, True, 6))
    assert found["texts"] == 50 and found["malformed"] == 0.0 <= found["events_changed"] <= 1
