"""Words to pieces and arrays to pixels: positions, cuts, pooled states, values."""

import numpy as np
import pytest
import torch

from xmtl_ray.events.records import Span
from xmtl_ray.models.encoders import learn_tokenizer
from xmtl_ray.models.inputs import TextCodec, normalise

SENTENCES = [["the", "cat", "sat", "on", "the", "mat"], ["a", "cat", "met", "the", "cats"]] * 5
EXTRA = ["$", "life", "die"]
VOCABULARY = 60
EVENT = ["sat", "life", "die"]


@pytest.fixture(scope="module")
def tokenizer():
    """Knows ``cat`` and ``the`` as pieces; long words it has to spell."""
    return learn_tokenizer(SENTENCES, EXTRA, VOCABULARY)


def pieces(tokenizer, word):
    return tokenizer(word, add_special_tokens=False)["input_ids"]


def test_each_word_is_found_at_its_first_piece(tokenizer):
    """Words of one and of many pieces: positions are 1 + the pieces of all words before, each spelt alone."""
    words = ["the", "catamaran", "sat", "notice", "mat"]
    lengths = [len(pieces(tokenizer, word)) for word in words]
    assert min(lengths) == 1 and max(lengths) > 2
    text = TextCodec(tokenizer, 300)([words])
    assert text.words.tolist() == [[1 + sum(lengths[:number]) for number in range(len(words))]]
    assert text.word_mask.all() and text.sentences == 1
    for word, position, length in zip(words, text.words[0].tolist(), lengths, strict=True):
        assert text.ids[0, position : position + length].tolist() == pieces(tokenizer, word)
    assert text.ids.shape[1] == sum(lengths) + 2
    assert text.ids[0, [0, -1]].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]


def test_rows_are_padded_to_the_longest_at_the_end(tokenizer):
    """Sentences first, then prompts; masks are True exactly on what is there, types 1 behind a prompt's [SEP]."""
    marked = ["the", "$", "cat", "$", "sat"]
    text = TextCodec(tokenizer, 300)([["cat"], ["the", "cat", "sat"]], [(marked, EVENT, Span(2, 3))])
    lengths = [2 + 1, 2 + 3, 3 + len(marked) + len(EVENT)]
    assert text.mask.sum(1).tolist() == lengths and text.ids.shape == (3, max(lengths))
    assert text.mask.tolist() == [[at < length for at in range(max(lengths))] for length in lengths]
    assert text.ids[~text.mask].eq(tokenizer.pad_token_id).all()
    assert text.word_mask.tolist() == [[True, False, False], [True, True, True]]
    assert text.words.tolist() == [[1, 0, 0], [1, 2, 3]]
    assert text.types[:2].eq(0).all()
    assert text.types[2].tolist() == [0] * (len(marked) + 2) + [1] * (len(EVENT) + 1)


def test_a_sentence_of_the_longest_length_is_whole_and_one_word_more_is_cut(tokenizer):
    """Eight pieces hold [CLS], six words and [SEP]; of twenty words fourteen are cut, and the codec counts them."""
    codec = TextCodec(tokenizer, 8)
    assert codec([["the"] * 6]).word_mask.sum() == 6
    assert codec.cut_words == 0
    text = codec([["the"] * 7, ["cat"] * 20, ["the"]])
    assert text.word_mask.sum(1).tolist() == [6, 6, 1]
    assert codec.cut_words == 1 + 14
    assert text.ids.shape == (3, 8)
    assert text.ids[:2, -1].eq(tokenizer.sep_token_id).all()


def test_a_word_that_is_cut_in_the_middle_is_kept(tokenizer):
    """Its first piece is there, and that is what its tag is read from."""
    assert len(pieces(tokenizer, "catamaran")) > 2
    codec = TextCodec(tokenizer, 8)
    text = codec([["the"] * 5 + ["catamaran", "sat"]])
    assert text.words.tolist() == [[1, 2, 3, 4, 5, 6]] and codec.cut_words == 1


@pytest.mark.parametrize("words", [["\u200b"], ["\x00", "\u200b"], ["cat", "\ufffd"], ["\u200b", "cat", "\x00"]])
def test_a_word_without_a_piece_is_a_word_all_the_same(tokenizer, words):
    """Control characters have no piece: the word is read from [CLS], is not counted as cut, and none is lost."""
    codec = TextCodec(tokenizer, 300)
    text = codec([words])
    assert text.word_mask.tolist() == [[True] * len(words)]
    assert text.words.tolist() == [[int(word == "cat") for word in words]]
    assert codec.cut_words == 0


def test_an_empty_sentence_has_no_word(tokenizer):
    """Beside another one; its row is [CLS] [SEP]."""
    text = TextCodec(tokenizer, 300)([[], ["cat"]])
    assert text.word_mask.tolist() == [[False], [True]]
    assert text.mask.sum(1).tolist() == [2, 3]


def test_the_event_of_a_prompt_is_never_cut(tokenizer):
    """A long text loses its end; the trigger and the type behind [SEP] stay whole."""
    text = TextCodec(tokenizer, 12)([], [(["the"] * 40, EVENT, Span(1, 2))])
    assert text.ids.shape == (1, 12) and text.sentences == 0
    ends = (text.ids[0] == tokenizer.sep_token_id).nonzero().flatten().tolist()
    assert ends == [12 - len(EVENT) - 2, 11]
    assert text.ids[0, ends[0] + 1 : -1].tolist() == [piece for word in EVENT for piece in pieces(tokenizer, word)]


def test_a_prompt_stands_for_its_argument_with_all_its_states(tokenizer):
    """``prompt``: every real piece, specials too; sentences have no row in ``pooled``."""
    short, long = (["$", "cat", "$"], EVENT, Span(1, 2)), (["the", "$", "cat", "$", "sat"], EVENT, Span(2, 3))
    text = TextCodec(tokenizer, 300)([["cat"]], [short, long])
    assert torch.equal(text.pooled, text.mask[1:])
    assert text.pooled.sum(1).tolist() == [3 + 6, 3 + 8]


def test_a_span_stands_for_its_argument_with_the_entitys_pieces(tokenizer):
    """``span``: the pieces of its words, between the markers, however many a word has."""
    marked = ["the", "$", "big", "catamaran", "$", "sat"]
    text = TextCodec(tokenizer, 300, "span")(
        [["cat"]], [(marked, EVENT, Span(2, 4)), (["$", "a", "$"], ["a"], Span(1, 2))]
    )
    expected = pieces(tokenizer, "big") + pieces(tokenizer, "catamaran")
    assert text.ids[1][text.pooled[0]].tolist() == expected
    assert text.pooled[0].nonzero().flatten().tolist() == list(range(3, 3 + len(expected)))
    assert text.ids[2][text.pooled[1]].tolist() == pieces(tokenizer, "a"), "not the event's own 'a' behind [SEP]"


def test_a_span_that_was_cut_off_is_read_from_the_whole_prompt(tokenizer):
    """With its words gone the mean is over what is left: never over nothing, which would be NaN."""
    prompts = [(["the"] * 40, EVENT, Span(30, 31)), (["the"] * 40, EVENT, Span(4, 6))]
    text = TextCodec(tokenizer, 12, "span")([], prompts)
    assert text.pooled[0].tolist() == text.mask[0].tolist()
    assert text.pooled[1].nonzero().flatten().tolist() == [5, 6]


def test_normalise_takes_clips_mean_and_deviation():
    """Black is -mean / deviation, white (1 - mean) / deviation, per channel, red first."""
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    red = black.copy()
    red[..., 0] = 255
    found = normalise([black, white, red], 4)
    assert found.shape == (3, 3, 4, 4) and found.dtype == torch.float32
    low = [-0.48145466 / 0.26862954, -0.4578275 / 0.26130258, -0.40821073 / 0.27577711]
    high = [(1 - 0.48145466) / 0.26862954, (1 - 0.4578275) / 0.26130258, (1 - 0.40821073) / 0.27577711]
    for row, values in zip(found, (low, high, [high[0], *low[1:]]), strict=True):
        assert torch.allclose(row, torch.tensor(values)[:, None, None].expand(3, 4, 4), atol=1e-6)


def test_normalise_keeps_rows_and_columns_and_resizes():
    """A mark at the top right stays there; halves stay halves on another size; nothing passes black and white."""
    canvas = np.zeros((4, 4, 3), np.uint8)
    canvas[0, 3] = 255
    found = normalise([canvas], 4)[0, 0]
    assert (found == found.max()).nonzero().tolist() == [[0, 3]]
    halves = np.zeros((32, 32, 3), np.uint8)
    halves[:, 16:] = 255
    small, limits = normalise([halves], 8)[0], normalise([halves], 32)[0]
    assert small.shape == (3, 8, 8)
    assert torch.allclose(small[:, :, :2], limits[:, :8, :2]) and torch.allclose(small[:, :, 6:], limits[:, :8, -2:])
    assert (small.amax((1, 2)) <= limits.amax((1, 2)) + 1e-6).all()
    assert (small.amin((1, 2)) >= limits.amin((1, 2)) - 1e-6).all()


def test_the_learnt_tokenizer_keeps_to_its_size_and_knows_its_extra_words(tokenizer):
    """At most as many pieces as asked for; a marker and the types' words are one piece each; capitals are nothing."""
    assert len(tokenizer) <= VOCABULARY
    assert [len(pieces(tokenizer, word)) for word in EXTRA] == [1, 1, 1]
    assert pieces(tokenizer, "CAT") == pieces(tokenizer, "cat")
    assert tokenizer("cat")["input_ids"] == [tokenizer.cls_token_id, *pieces(tokenizer, "cat"), tokenizer.sep_token_id]
