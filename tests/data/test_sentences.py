"""Sentences and words that know where they stand, and entities found by a real model, small enough to be built here."""

import itertools
import shutil

import pytest
from safetensors.torch import load_file, save_file

from xmtl_ray.data import ner
from xmtl_ray.data.sentences import covered, sentences, words
from xmtl_ray.events.records import Entity, Span

TEXTS = [
    "Mr. Skopet met the U.S. envoy. He didn't stay.",
    "  One line\n\n\tanother, with space  \r\nlast",
    "東京で抗議デモがあった。警察は二人を逮捕した。",
    "Ein Satz. Noch einer? Ja!",
    "e\u0301cole \U0001f600 ok",
    "",
    " \n ",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("language", ["en", "ja", "de", "xx"])
def test_sentences_and_words_lose_nothing(text, language):
    """In order, without overlap, stripped, and together all that is no white space; the same of each one's words."""

    def plain(some):
        return "".join(some.split())

    found = list(sentences(text, language))
    assert all(first.end <= second.start for first, second in itertools.pairwise(found))
    assert plain("".join(text[span.start : span.end] for span in found)) == plain(text)
    for span in found:
        own = text[span.start : span.end]
        assert own == own.strip() and own and "\n" not in own
        inside = words(own)
        assert "".join(own[word.start : word.end] for word in inside) == plain(own)


def cut(text, language="en"):
    return [text[span.start : span.end] for span in sentences(text, language)]


def test_where_sentences_end():
    """Abbreviations do not end one, line breaks do; Japanese ends with its own mark."""
    assert cut(TEXTS[0]) == ["Mr. Skopet met the U.S. envoy.", "He didn't stay."]
    assert cut(TEXTS[1]) == ["One line", "another, with space", "last"]
    assert cut(TEXTS[2], "ja") == ["東京で抗議デモがあった。", "警察は二人を逮捕した。"]


def test_words_are_berts():
    """Marks stand alone, each Chinese character too; kana do not."""
    text = "U.S.-backed didn't 東京で"
    parts = [text[word.start : word.end] for word in words(text)]
    assert parts == ["U", ".", "S", ".", "-", "backed", "didn", "'", "t", "東", "京", "で"]


@pytest.mark.parametrize(
    ("characters", "expected"),
    [((0, 5), (0, 1)), ((4, 7), (0, 2)), ((5, 6), None), ((6, 12), (1, 3)), ((11, 40), (2, 3)), ((20, 30), None)],
)
def test_words_that_characters_touch(characters, expected):
    """Of three words; half a word counts as the word, a gap as none."""
    spans = [Span(0, 5), Span(6, 9), Span(10, 12)]
    assert covered(spans, Span(*characters)) == (None if expected is None else Span(*expected))


def test_a_model_finds_entities_in_whole_words(tagger):
    """Two words of one name, pieces put together; each sentence by itself; none in an empty one."""
    finder = ner.EntityFinder(ner.choose(f"hf:{tagger}"), "cpu")
    text = "Anna Kovel saw Rome."
    assert finder(text, words(text)) == (Entity(Span(0, 2), "PER"), Entity(Span(3, 4), "LOC"))
    assert finder("", ()) == ()
    long = "saw " * 40
    finder(long, words(long))  # longer than the model's positions: cut, no error


def test_what_is_no_model_is_refused(tagger, tmp_path):
    """Another scheme, a folder without weights, one that brings code."""
    with pytest.raises(ner.NerError, match="ner: found 'spacy', expected hf:FOLDER"):
        ner.choose("spacy")
    with pytest.raises(ner.NerError, match=r"expected a folder with config\.json and \*\.safetensors"):
        ner.choose(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors").write_bytes((tagger / "model.safetensors").read_bytes())
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}')
    with pytest.raises(ner.NerError, match="found auto_map, expected no code in it"):
        ner.choose(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ner.NerError, match=str(tmp_path)):
        ner.EntityFinder(ner.choose(f"hf:{tmp_path}"), "cpu")


def test_a_model_without_a_trained_classifier_is_refused(tagger, tmp_path):
    """An encoder alone would be completed with random weights: entities without a meaning."""
    shutil.copytree(tagger, tmp_path / "bare")
    state = load_file(tagger / "model.safetensors")
    bare = {name: value for name, value in state.items() if not name.startswith("classifier")}
    save_file(bare, tmp_path / "bare" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ner.NerError, match=r"found no weights of classifier\.bias, expected a model trained for"):
        ner.EntityFinder(ner.choose(f"hf:{tmp_path / 'bare'}"), "cpu")


def test_other_files_are_another_model(tagger, tmp_path):
    """The hash follows the content and not the place."""
    shutil.copytree(tagger, tmp_path / "same")
    assert ner.choose(f"hf:{tmp_path / 'same'}").hash == ner.choose(f"hf:{tagger}").hash
    (tmp_path / "same" / "tokenizer.json").write_text("{}")
    assert ner.choose(f"hf:{tmp_path / 'same'}").hash != ner.choose(f"hf:{tagger}").hash
