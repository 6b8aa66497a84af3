"""The grammar of an answer, judged letter by letter with XGrammar, and the completion of what was cut off."""

import unicodedata
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import GenerativeEvent as Event
from xmtl_ray.generative.grammar import answer_grammar, close_answer, suffix_automaton, words

xgrammar = pytest.importorskip("xgrammar")

SCHEMA = {"buy": ("agent", "thing"), 'a "quoted\\" type': ("роль",), "rain": ()}
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)


def compiler():
    """Every byte is a token; 256 is the end."""
    vocabulary = [bytes([value]) for value in range(256)] + [b""]
    return xgrammar.GrammarCompiler(xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[256]), max_threads=1)


def accepts(grammar, *texts):
    compiled = compiler().compile_grammar(grammar)
    found = []
    for text in texts:
        matcher = xgrammar.GrammarMatcher(compiled)
        found.append(matcher.accept_string(text) and matcher.is_completed())
    return found


FREE = answer_grammar(SCHEMA, events=2, arguments=2, letters=5)


@pytest.mark.parametrize(
    ("events", "allowed"),
    [
        ((), True),
        ((Event("buy", "bid", ()),), True),
        ((Event("buy", "bid", (("agent", "A"), ("thing", '"\\'))), Event("rain", "雨😀é", ())), True),
        ((Event('a "quoted\\" type', "x", (("роль", "Лев"),)),), True),
        ((Event("sell", "bid", ()),), False),
        ((Event("buy", "bid", (("роль", "A"),)),), False),
        ((Event("rain", "bid", (("agent", "A"),)),), False),
        ((Event("buy", "", ()),), False),
        ((Event("buy", "12345", ()),), True),
        ((Event("buy", "123456", ()),), False),
        ((Event("buy", '""""\\', ()),), True),
        ((Event("buy", "a\nb", ()),), False),
        ((Event("buy", "\x7f", ()),), False),
        ((Event("buy", "bid", (("agent", "A"),) * 3),), False),
        ((Event("rain", "it", ()),) * 3, False),
    ],
)
def test_free_text(events, allowed):
    """Types of the schema, roles of the type, one letter to the bound, no control characters, both bounds."""
    assert accepts(FREE, dumps(events), " " + dumps(events)) == [allowed, allowed]


def test_an_answer_is_written_as_dumps_does():
    """Other white space, other order of keys, other escapes, prose around and half a surrogate pair are not allowed."""
    answer = dumps([Event("buy", "é", ())])
    assert (
        accepts(
            FREE,
            answer,
            answer.replace(": ", ":"),
            answer.replace("é", "\\u00e9"),
            answer + " ",
            f"Sure: {answer}",
            '{"events": [{"event_type": "buy", "trigger": "x", "arguments": []}]}',
            answer.encode().replace("é".encode(), b"\xed\xa0\x80"),
            answer[:-1],
        )
        == [True] + [False] * 7
    )


def test_free_text_is_utf_8():
    """All lead bytes with continuations at the edges: allowed where Python decodes them to no control character."""
    edges = (0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF)
    letters = [
        bytes([lead, *rest]) for lead in range(0x20, 256) for size in range(4) for rest in product(edges, repeat=size)
    ]
    start, end = dumps([Event("rain", "|", ())]).encode().split(b"|")

    def is_letter(letter):
        try:
            return unicodedata.category(letter.decode()) != "Cc" and letter not in (b'"', b"\\")
        except (UnicodeDecodeError, TypeError):
            return False

    grammar = answer_grammar({"rain": ()}, letters=1)
    assert accepts(grammar, *(start + letter + end for letter in letters)) == [is_letter(letter) for letter in letters]


@settings(max_examples=60, deadline=None)
@given(TEXT.filter(words), st.data())
@example("the man saw the man", None)
@example('tab\there "and" \\ there\x00\u2028\n北京 10%', None)
def test_quotations(source, data):
    """Each run of words is allowed and nothing else: not half a word, not two words that do not follow each other."""
    runs = [word for word in words(source)]
    whole = [
        "".join(gap + word for gap, word in runs[start:end])[len(runs[start][0]) :]
        for start in range(len(runs))
        for end in range(start + 1, len(runs) + 1)
    ]
    assert all(text in source for text in whole)
    quoted = whole if data is None else data.draw(st.lists(st.sampled_from(whole), min_size=1, max_size=5))
    wrong = (runs[0][1] + "x", runs[-1][1] * 2, runs[0][1][:-1], quoted[0] + " ")
    others = [text for text in wrong if text not in whole]
    grammar = answer_grammar(SCHEMA, source)
    answers = [dumps([Event("buy", text, (("agent", text),))]) for text in quoted + others]
    assert accepts(grammar, *answers) == [True] * len(quoted) + [False] * len(others)


@given(st.lists(st.sampled_from([("", "a"), (" ", "a"), ("", "b")]), max_size=9), st.data())
def test_the_automaton_reads_all_stretches_and_no_more(chunks, data):
    """Against all stretches listed; states and transitions stay below two and three a chunk."""
    states = suffix_automaton(chunks)
    stretches = {tuple(chunks[start:end]) for start in range(len(chunks)) for end in range(start, len(chunks) + 1)} | {
        ()
    }

    def read(start, path):
        return {path}.union(*(read(state, (*path, chunk)) for chunk, state in states[start].items()))

    assert read(0, ()) == stretches
    assert len(states) <= max(2, 2 * len(chunks))
    assert sum(map(len, states)) <= max(1, 3 * len(chunks))


@pytest.mark.parametrize("word", ["a", "ab", "ba ab", "北"])
def test_the_grammar_is_as_long_as_its_source(word):
    """Ten times the source is ten times the grammar, be its words all alike or not."""
    short, long = (len(answer_grammar(SCHEMA, f"{word} " * times).splitlines()) for times in (100, 1000))
    assert long - 9 <= 10.5 * (short - 9)


def test_words():
    """Accents belong to words; Chinese, kana and hangul are single characters; signs stand alone."""
    assert [word for _, word in words("  Zúñiga's за\u0301мок 3.5% 北京Labs カ")] == [
        "Zúñiga", "'", "s", "за\u0301мок", "3", ".", "5", "%", "北", "京", "Labs", "カ",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "found no event types"),
        ((SCHEMA, " \n"), "expected words to quote from"),
        ((SCHEMA, "a \ud800"), "half a surrogate pair at letter 2"),
    ],
)
def test_what_makes_no_grammar(arguments, message):
    """An empty schema, a source without words, one that is no text."""
    with pytest.raises(ValueError, match=message):
        answer_grammar(*arguments)


def test_the_ontology_compiles():
    """M2E2's: an argument of another type's role is refused."""
    good = dumps([Event("Life:Die", "died", (("Victim", "he"),))])
    assert accepts(answer_grammar(m2e2().roles_of, "he died"), good, good.replace("Victim", "Giver")) == [True, False]


EVENT = st.builds(Event, TEXT, TEXT, st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple))


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=3))
@example([Event("]}", '"}, {"role"', (('"', "\\"), ("}]}", "]}, ")))])
def test_every_prefix_is_completed(events):
    """Of each prefix all that is complete is kept, and it alone; the whole is itself and was not cut."""
    answer = dumps(events)
    # Independently: how long the answer is when an argument, or an event, has just been closed.
    ends = [(0, ())]
    for number, event in enumerate(events):
        for count in range(1, len(event.arguments) + 1):
            part = Event(event.event_type, event.trigger, event.arguments[:count])
            ends.append((len(dumps([*events[:number], part])) - len("]}]}"), (*events[:number], part)))
        ends.append((len(dumps(events[: number + 1])) - len("]}"), tuple(events[: number + 1])))
    for length in range(len(answer) + 1):
        closed, cut = close_answer(answer[:length])
        expected = [kept for end, kept in ends if end <= length][-1]
        assert closed == dumps(expected)
        assert parse(closed).state == "ok" and parse(closed).events == expected
        assert cut == (length < len(answer))
    assert close_answer(" " + answer) == (answer, False)


@settings(max_examples=200)
@given(st.text(st.sampled_from('{}[]",: \\aevents')) | TEXT)
@example('{"events": [{"trigger": "b", "event_type": "a", "arguments": [{"role": "r", "text": "t"}, ]}]}')
@example('{"events": []} and more')
def test_any_text_is_completed_to_an_answer(text):
    """Also what is no prefix of an answer; it is then said to be cut."""
    closed, cut = close_answer(text)
    assert parse(closed).state == "ok" and close_answer(closed) == (closed, False)
    assert cut == (closed != text.removeprefix(" "))


def test_a_million_letters_are_completed_in_no_time():
    """One pass: an endless string, and an endless list of arguments."""
    start = '{"events": [{"trigger": "b", "event_type": "a", "arguments": ['
    argument = '{"role": "r", "text": "t"}'
    assert close_answer(start + '{"role": "' + "\\n" * 500_000) == ('{"events": []}', True)
    closed, _ = close_answer(start + ", ".join([argument] * 40_000))
    assert len(parse(closed).events[0].arguments) == 40_000
