"""VideoLLaMA2's training file: a JSON list of conversations about a text, an image, a video or a sound.

``{"id", "language", "image" | "video" | "audio", "conversations": [{"from": "human" | "gpt", "value"}]}``; ``language``
is ours and optional. The surprising fact: the model sees a medium only where the first turn has the sign ``<image>``,
``<video>`` or ``<audio>``, which VideoLLaMA2 moves to its front; a record without the sign, or with one but no medium,
trains on something else than it says, so both are errors. The sign is not part of a prompt here, nor is, as there, the
white space around a prompt about a medium.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, TypeAdapter

from xmtl_ray.data.media_paths import relative
from xmtl_ray.events.json_format import parse
from xmtl_ray.events.records import Conversation, DataError, GenerativeEvent, GenerativeSample, Media, Report, Turn
from xmtl_ray.events.schema_prompt import PromptStyle, prompt_of, source_of
from xmtl_ray.events.strict_json import stream_list, write_list

_KINDS: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")


class _Utterance(BaseModel):
    model_config = ConfigDict(frozen=True)

    speaker: Literal["human", "gpt"] = Field(alias="from")
    value: str


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True)

    id: StrictInt | str
    language: str | None = None
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    conversations: Annotated[list[_Utterance], Field(min_length=2)]


_ROW = TypeAdapter(_Row)


def read(path: Path, on_error: Report | None = None) -> tuple[Conversation, ...]:
    """All conversations of a file; see ``stream``."""
    return tuple(stream(path, on_error))


def stream(path: Path, on_error: Report | None = None) -> Iterator[Conversation]:
    """The conversations of a file (a JSON list or JSON lines), one in memory at a time; ids become text.

    ``on_error``: see ``strict_json.stream_list``. Raises DataError.
    """
    return stream_list(path, _ROW, lambda index, row: _conversation(path, index, row), on_error)


def _conversation(file: Path, record: int, row: _Row) -> Conversation:
    expected = "human and gpt in turns, human first"
    if len(row.conversations) % 2:
        raise DataError(file, record, "conversations", f"{len(row.conversations)} of them", expected)
    for place, spoken in enumerate(row.conversations):
        if spoken.speaker != ("gpt" if place % 2 else "human"):
            raise DataError(file, record, f"conversations.{place}.from", spoken.speaker, expected)
    named = {kind: name for kind in _KINDS if (name := getattr(row, kind)) is not None}
    if len(named) > 1:
        raise DataError(file, record, "", sorted(named), "at most one of image, video and audio")
    media = next((Media(kind, relative(name, file, record, kind)) for kind, name in named.items()), None)
    prompts, answers = row.conversations[::2], row.conversations[1::2]
    texts = [prompt.value for prompt in prompts]
    for place, text in enumerate(texts):
        for kind in _KINDS:
            wanted = int(place == 0 and media is not None and media.kind == kind)
            if text.count(f"<{kind}>") != wanted:
                found = f"{text.count(f'<{kind}>')} times <{kind}>"
                raise DataError(file, record, f"conversations.{2 * place}.value", found, f"{wanted}, as the media say")
    if media is not None:
        texts[0] = texts[0].replace(f"<{media.kind}>", "").strip()
    turns = tuple(Turn(text, answer.value) for text, answer in zip(texts, answers, strict=True))
    return Conversation(str(row.id), turns, row.language, media)


def write(path: Path, conversations: Iterable[Conversation]) -> int:
    """Write the conversations as VideoLLaMA2 reads them, one per line of a JSON list; returns how many."""
    return write_list(path, map(_row, conversations))


def _row(conversation: Conversation) -> dict[str, object]:
    media, spoken = conversation.media, list[dict[str, str]]()
    for number, turn in enumerate(conversation.turns):
        sign = f"<{media.kind}>\n" if media is not None and not number else ""
        spoken += [{"from": "human", "value": sign + turn.prompt}, {"from": "gpt", "value": turn.answer}]
    return {
        "id": conversation.id,
        **({} if conversation.language is None else {"language": conversation.language}),
        **({} if media is None else {media.kind: media.path}),
        "conversations": spoken,
    }


def prompt(language: str | None, text: str) -> str:
    """The instruction in ``language`` (English where there is none in it), and the text below it."""
    return prompt_of(PromptStyle(), language, text)


def source(conversation: Conversation) -> str:
    """The text that the first prompt is about; see ``source_of``."""
    return source_of(conversation.turns[0].prompt)


def events(conversation: Conversation, file: Path | str) -> tuple[GenerativeEvent, ...]:
    """The events of the first answer, which is gold: one that is not of the format is a DataError, with ``file``."""
    answer = conversation.turns[0].answer
    parsed = parse(answer)
    if parsed.state != "ok":
        raise DataError(file, conversation.id, "answer", answer, "events as JSON, nothing around them")
    return parsed.events


def sample(conversation: Conversation, file: Path | str) -> GenerativeSample:
    """The first turn as what the scorer of generated events takes. Raises DataError as ``events`` does."""
    return GenerativeSample(
        conversation.id,
        conversation.language or "en",
        source(conversation),
        events(conversation, file),
        conversation.media.kind if conversation.media else "text",
    )


def samples(conversations: Iterable[Conversation], file: Path | str) -> list[GenerativeSample]:
    """Those whose first answer is event JSON, as ``sample`` reads them; material of another kind may be among them."""
    found = []
    for one in conversations:
        with suppress(DataError):
            found.append(sample(one, file))
    return found
