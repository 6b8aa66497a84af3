"""Conversations → token ids and labels, by the tokenizer's own chat template, as VideoLLaMA2 does it.

A medium stands in the text as ``<image>`` or ``<video>`` and in the ids as a tag below zero. The surprising facts: text
on both sides of a tag is tokenised by itself, so that a SentencePiece tokenizer begins each piece anew; and what is
learnt from follows from the lengths of tokenised prefixes, so that a template's newline after an answer is learnt, too.
A tokenizer's special tokens are the template's alone: in a conversation's own words ``<|im_end|>`` is ten letters that
end no turn. (The original reads them as tokens there, too. Mistral's ``[INST]`` is no token, and stays what it is.)
A second ``<image>`` shows the medium again, as in the original, unless :func:`unsigned` made letters of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import jinja2
from transformers import PreTrainedTokenizerBase

from xmtl_ray.events.records import Turn
from xmtl_ray.models.splice import IGNORED, TAGS, Row

SYSTEM = (
    "<<SYS>>\nYou are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being "
    "safe.  Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal "
    "content. Please ensure that your responses are socially unbiased and positive in nature.\nIf a question does not "
    "make any sense, or is not factually coherent, explain why instead of answering something not correct. If you "
    "don't know the answer to a question, please don't share false information.\n<</SYS>>"
)
"""What VideoLLaMA2 (not 2.1) puts before the first turn, in the bytes of the original."""


RAISED = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError)
"""What a template, which is a program, can raise beside Jinja's own errors."""
_BREAK = "\ufdd0"
"""Parts what must not be read as one token; no character, so that no text has it."""


class Message(TypedDict):
    """One of a chat template's messages."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatError(ValueError):
    """A tokenizer whose template does not take what a conversation needs."""


def system_of(model_type: str) -> str | None:
    """The system message of a checkpoint's ``model_type``; None leaves it to the template."""
    return None if model_type == "videollama2_qwen2" else SYSTEM


def sign(kind: str | None) -> str:
    """How a medium stands in text; empty where there is none."""
    return "" if kind is None else f"<{kind}>"


def messages(turns: Sequence[Turn], kind: str | None, system: str | None, newline: bool = True) -> list[Message]:
    """Turns → messages; the last answer is left out where it is empty: it is to be generated.

    Args:
        turns: without sign.
        kind: image or video, which the first turn is about; None for text.
        system: put first; None: not.
        newline: the original begins a prompt about text alone with the newline that follows a sign elsewhere.
    """
    found: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for number, turn in enumerate(turns):
        found.append({"role": "user", "content": turn.prompt if number else _opening(turn.prompt, kind, newline)})
        if turn.answer or number < len(turns) - 1:
            found.append({"role": "assistant", "content": turn.answer})
    return found


def _opening(prompt: str, kind: str | None, newline: bool) -> str:
    if kind is None:
        return "\n" * newline + prompt
    return f"{sign(kind)}\n{prompt}" if prompt else sign(kind)  # a sign alone, as the original's training has it


def unsigned(turn: Turn, kind: str | None) -> Turn:
    """``turn`` in whose words the medium's sign is letters: a caption with ``<image>`` in it shows no second image."""
    mark = sign(kind)
    letters = mark[:1] + _BREAK + mark[1:]
    return Turn(turn.prompt.replace(mark, letters), turn.answer.replace(mark, letters)) if mark else turn


def encode(tokenizer: PreTrainedTokenizerBase, text: str, mark: str) -> list[int]:
    """Ids of ``text``, the tag of ``mark`` (a sign or nothing) between pieces that are tokenised one by one."""
    pieces = text.split(mark) if mark else [text]
    ids: list[int] = []
    for number, piece in enumerate(pieces):
        if number:
            ids.append(TAGS[mark.strip("<>")])
        for words in piece.split(_BREAK):
            ids += tokenizer(words, add_special_tokens=False)["input_ids"]
    return ids


def prompt(tokenizer: PreTrainedTokenizerBase, said: Sequence[Message], mark: str) -> list[int]:
    """Ids of a conversation that the model is to go on with. Raises ChatError."""
    return encode(tokenizer, template(tokenizer, said, generation=True), mark)


def supervised(tokenizer: PreTrainedTokenizerBase, said: Sequence[Message], mark: str) -> Row:
    """Ids of a whole conversation, and labels: the answers with what the template ends them by. Raises ChatError."""
    ids = encode(tokenizer, template(tokenizer, said, generation=False), mark)
    labels, done = list(ids), 0
    for place, message in enumerate(said):
        if message["role"] != "assistant":
            continue
        asked = len(encode(tokenizer, template(tokenizer, said[:place], generation=True), mark))
        labels[done:asked] = [IGNORED] * (asked - done)
        done = len(encode(tokenizer, template(tokenizer, said[: place + 1], generation=False), mark))
    return Row(ids, [IGNORED if name < 0 else name for name in labels])


def described(tokenizer: PreTrainedTokenizerBase, turn: Turn, kind: str) -> Row:
    """A pair as the connector's pre-training has it: no template, prompt and answer learnt alike, no end token."""
    ids = encode(tokenizer, f"{_opening(turn.prompt, kind, newline=False)} {turn.answer}", sign(kind))
    return Row(ids, [IGNORED if name < 0 else name for name in ids])


def template(tokenizer: PreTrainedTokenizerBase, said: Sequence[Message], *, generation: bool) -> str:
    """The conversation as the template writes it, special tokens in its words parted. Raises ChatError."""
    words = [Message(role=message["role"], content=_parted(tokenizer, message["content"])) for message in said]
    try:
        return tokenizer.apply_chat_template(words, tokenize=False, add_generation_prompt=generation)
    except (jinja2.exceptions.TemplateError, *RAISED) as error:
        roles = ", ".join(message["role"] for message in said)
        raise ChatError(f"chat template: found {told(error)!r}, expected it to take {roles}") from None


def told(error: Exception) -> str:
    """What an error of a template says, on one line; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """What the tokenizer reads as tokens that no words are made of."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {*added, *tokenizer.all_special_tokens}


def _parted(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    for token in sorted(special_tokens(tokenizer), key=len, reverse=True):
        if token.strip("<>") not in TAGS:
            text = text.replace(token, token[0] + _BREAK + token[1:])
    return text


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad with: the tokenizer's own, else the unknown token's."""
    for name in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id):
        if name is not None:
            return int(name)
    raise ChatError("tokenizer: found no pad, unknown or end token, expected one of them")
