"""Conversations to ids by a tokenizer of one id per word and character, whose template is written out here."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xmtl_ray.events.records import Turn
from xmtl_ray.models import chat
from xmtl_ray.models.splice import IGNORED

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and loop.index0 %}{{ raise_exception('system comes first') }}"
    "{% endif %}[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}[end]\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SIGNS = ["[system]", "[user]", "[assistant]", "[end]"]
PIECES = [*SIGNS, "\n", " ", "<", ">", "?", "[", "]", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def tokenizer():
    """A template's sign is one id, anything else a letter an id."""
    words = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(PIECES)}))
    words.pre_tokenizer = pre_tokenizers.Split(Regex(r"\[[a-z]+\]|\n|."), "isolated")
    words.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=TEMPLATE, eos_token="[end]")


def text(tokenizer, ids):
    """Ids as text, tags as their numbers."""
    return "".join(PIECES[name] if name >= 0 else f"({name})" for name in ids)


def test_messages():
    """The medium is in the first turn; the answer to be generated is left out; an empty prompt is the sign alone."""
    turns = [Turn("what?", "a dog"), Turn("where?", "")]
    assert chat.messages(turns, "video", "be good") == [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "<video>\nwhat?"},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "where?"},
    ]
    assert chat.messages([Turn("what?", "")], None, None)[0]["content"] == "\nwhat?"
    assert chat.messages([Turn("what?", "")], None, None, newline=False)[0]["content"] == "what?"
    assert chat.messages([Turn("", "x")], "image", None, newline=False)[0]["content"] == "<image>"


def test_an_empty_answer_among_others_is_kept():
    """Only the last can be one that is to be generated."""
    said = chat.messages([Turn("a", ""), Turn("b", "c")], None, None)
    assert [message["role"] for message in said] == ["user", "assistant", "user", "assistant"]


def test_families_differ_by_the_system_message():
    """VideoLLaMA2 says the long one, 2.1 leaves it to the template."""
    assert chat.system_of("videollama2_mistral") == chat.SYSTEM == chat.system_of("videollama2")
    assert chat.system_of("videollama2_qwen2") is None


def test_prompt(tokenizer):
    """The template's text, the sign as one tag; another modality's sign stays text."""
    said = chat.messages([Turn("is <image> ok", "")], "video", None)
    ids = chat.prompt(tokenizer, said, chat.sign("video"))
    assert text(tokenizer, ids) == "[user](-201)\nis <image> ok[assistant]"
    assert text(tokenizer, chat.prompt(tokenizer, said, chat.sign("image"))) == (
        "[user]<video>\nis (-200) ok[assistant]"
    )
    assert text(tokenizer, chat.prompt(tokenizer, said, chat.sign(None))) == "[user]<video>\nis <image> ok[assistant]"


def test_special_tokens_in_words_are_letters(tokenizer):
    """A text that holds the end of a turn ends none, prompt and answer alike; the template's own ends stay."""
    end = tokenizer.convert_tokens_to_ids("[end]")
    said = chat.messages([Turn("say [end] twice[end]", "[end]")], None, None)
    row = chat.supervised(tokenizer, said, "")
    assert row.ids.count(end) == 1 == row.labels.count(end)
    assert text(tokenizer, chat.prompt(tokenizer, said[:1], "")) == "[user]\nsay <end> twice<end>[assistant]".translate(
        {ord("<"): "[", ord(">"): "]"}
    )


def test_what_is_learnt(tokenizer):
    """Of each answer its text, its end and the template's newline after it; no question, no sign of a role, no tag."""
    turns = [Turn("what?", "a dog"), Turn("where?", "here")]
    row = chat.supervised(tokenizer, chat.messages(turns, "image", "hm"), chat.sign("image"))
    assert text(tokenizer, row.ids) == (
        "[system]hm[user](-200)\nwhat?[assistant]a dog[end]\n[user]where?[assistant]here[end]\n"
    )
    learnt = "".join("_" if name == IGNORED else PIECES[name] for name in row.labels)
    places = 1 + 2 + 1 + 1 + 1 + 5 + 1
    assert learnt == "_" * places + "a dog[end]\n" + "_" * (1 + 6 + 1) + "here[end]\n"


def test_pre_training_of_the_connector(tokenizer):
    """No template; the prompt is learnt as well, the tag is not."""
    row = chat.described(tokenizer, Turn("what", "dog"), "image")
    assert text(tokenizer, row.ids) == "(-200)\nwhat dog"
    assert list(row.labels) == [IGNORED, *row.ids[1:]]
    assert text(tokenizer, chat.described(tokenizer, Turn("", "dog"), "video").ids) == "(-201) dog"


def test_a_template_that_refuses(tokenizer):
    """The template's own words, and what it was given."""
    said = [chat.Message(role="user", content="a"), chat.Message(role="system", content="b")]
    with pytest.raises(chat.ChatError, match="found 'system comes first', expected it to take user, system"):
        chat.template(tokenizer, said, generation=True)


def test_a_tokenizer_without_template(tokenizer):
    """Is told so, too."""
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(chat.ChatError, match="chat template: found"):
        chat.template(bare, [chat.Message(role="user", content="a")], generation=True)
    with pytest.raises(chat.ChatError, match="found no pad, unknown or end token"):
        chat.pad_id(bare)


def test_what_is_padded_with(tokenizer):
    """The pad token, else the unknown one, else the end."""

    def padded(**tokens):
        return chat.pad_id(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **tokens))

    assert padded(pad_token=" ", unk_token="?", eos_token="[end]") == PIECES.index(" ")
    assert padded(unk_token="?", eos_token="[end]") == PIECES.index("?")
    assert padded(eos_token="[end]") == PIECES.index("[end]")
