"""Conversations of a length that is allowed, with a model that has one token for each letter."""

from xmtl_ray.events.records import Conversation, Media, Turn
from xmtl_ray.generative.samples import Cut, Sample, encode_all
from xmtl_ray.models.splice import IGNORED, Row

MEDIUM = 7
"""Places that a medium takes."""


def letters(conversation: Conversation) -> Sample:
    """A code point for each letter of each turn; answers are learnt."""
    ids, labels = [0], [IGNORED]
    for turn in conversation.turns:
        for text, learnt in ((turn.prompt, False), (turn.answer, True)):
            ids += map(ord, text)
            labels += [ord(letter) if learnt else IGNORED for letter in text]
    asked = (0, *map(ord, conversation.turns[0].prompt))
    return Sample(conversation, Row(ids, labels), asked, len(ids) + MEDIUM * (conversation.media is not None))


def said(sample: Sample) -> list[tuple[str, str]]:
    return [(turn.prompt, turn.answer) for turn in sample.conversation.turns]


def test_what_fits_is_left_as_it_is():
    """Up to the last place: a beginning, four letters and three of the answer are eight."""
    one = Conversation("a", (Turn("what", "dog"),))
    assert encode_all([one], letters, 8) == ([letters(one)], Cut())


def test_the_end_of_the_first_prompt_is_cut():
    """Seven letters of 'what is it' fit beside the beginning and the answer's three; white space at the end goes."""
    one = Conversation("a", (Turn("what is it", "dog"),))
    samples, cut = encode_all([one], letters, 11)
    assert said(samples[0]) == [("what is", "dog")] and samples[0].length == 11
    assert samples[0].row.labels[-3:] == [ord(letter) for letter in "dog"]
    assert cut == Cut(samples=1, tokens=3)
    samples, cut = encode_all([one], letters, 9)
    assert said(samples[0]) == [("what", "dog")] and samples[0].length == 8 and cut == Cut(samples=1, tokens=6)


def test_the_longest_beginning_that_fits():
    """Against all beginnings, one by one, for every length from the answer's alone up."""
    one = Conversation("a", (Turn("abc d  ef ghij", "xyz"), Turn("more", "yes")))
    for most in range(11, letters(one).length):
        samples, cut = encode_all([one], letters, most)
        beginnings = [one.turns[0].prompt[:count].rstrip() for count in range(15)]
        longest = max((text for text in beginnings if 1 + len(text) + 3 + 4 + 3 <= most), key=len)
        assert said(samples[0]) == [(longest, "xyz"), ("more", "yes")]
        assert (cut.samples, cut.tokens) == (1, letters(one).length - samples[0].length)


def test_an_answer_is_never_cut():
    """Where it is too long with no word of the prompt the conversation is left out, and named; a medium counts."""
    long = Conversation("long", (Turn("what", "a very long dog"),))
    seen = Conversation("seen", (Turn("what", "dog"),), media=Media("image", "a.png"))
    short = Conversation("short", (Turn("what", "dog"),))
    samples, cut = encode_all([long, seen, short], letters, 10)
    assert [sample.conversation.id for sample in samples] == ["short"]
    assert cut == Cut(dropped=("long", "seen"))
    samples, cut = encode_all([long, seen, short], letters, 11)
    assert [said(sample) for sample in samples] == [[("", "dog")], [("what", "dog")]]
    assert cut == Cut(samples=1, tokens=4, dropped=("long",))


def test_the_order_is_kept_and_all_is_counted():
    """Three of four are cut by one, two and three letters."""
    all_of_them = [Conversation(str(count), (Turn("x" * count, "y"),)) for count in (3, 4, 5, 6)]
    samples, cut = encode_all(all_of_them, letters, 5)
    assert [sample.conversation.id for sample in samples] == ["3", "4", "5", "6"]
    assert {sample.length for sample in samples} == {5} and cut == Cut(samples=3, tokens=1 + 2 + 3)


def test_learnt_places():
    """The first place of a sequence is never predicted, whatever its label is."""
    one = letters(Conversation("a", (Turn("what", "dog"),)))
    assert one.learnt == 3
    assert Sample(one.conversation, Row([1, 2, 3], [1, IGNORED, 3]), (1,), 3).learnt == 1
