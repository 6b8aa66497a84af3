"""What is put to a generative model: an instruction, the schema, examples, a call to reason, and last the source.

The source is data, whatever it says: it stands below a fixed line, and nothing stands below it. All that comes before
that line is ours, examples included, whose texts are JSON strings on one line each; so the first such line is the real
one, and ``source_of`` finds the source again. The surprising fact: a plain prompt has no such line; it is the prompt
that models are fine-tuned with, instruction and source alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xmtl_ray.events.json_format import Parsed, dumps, parse
from xmtl_ray.events.records import GenerativeSample

INSTRUCTIONS = {
    "en": "Extract all events as JSON.",
    "es": "Extrae todos los eventos en JSON.",
    "zh": "以JSON格式抽取所有事件。",
    "ru": "Извлеки все события в формате JSON.",
}
"""What a prompt begins with, by language."""

SEPARATOR = "===== TEXT ====="
"""The line that the source stands below, in all languages."""

FORMAT = '{"events": [{"trigger": "...", "event_type": "...", "arguments": [{"role": "...", "text": "..."}]}]}'

Schema = Mapping[str, Sequence[str]]
"""Event type → its roles."""


@dataclass(frozen=True)
class PromptStyle:
    """What a prompt has beside instruction and source."""

    schema: bool = False
    """Event types with their roles, and the answer's format."""
    shots: int = 0
    """Examples, each a text and its answer."""
    reason: bool = False
    """The model is asked to reason first and to give the JSON on the last line (chain of thought)."""

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise ValueError(f"shots: found {self.shots}, expected 0 or more")

    def __str__(self) -> str:
        parts = ["schema"] * self.schema + [f"{self.shots}-shot"] * bool(self.shots) + ["reason"] * self.reason
        return "+".join(parts) or "plain"


class _Words(NamedTuple):
    """What a prompt says, in one language."""

    schema: str
    rules: str
    examples: str
    text: str
    answer: str
    reason: str


_WORDS = {
    "en": _Words(
        "Event types and their roles:",
        'Use only these types and roles. Copy triggers and arguments from the text. Without events: {"events": []}.'
        " Format:",
        "Examples:",
        "Text:",
        "Answer:",
        "First reason step by step in a few sentences; then give the JSON alone on the last line.",
    ),
    "es": _Words(
        "Tipos de eventos y sus roles:",
        "Usa solo estos tipos y roles. Copia los disparadores y los argumentos del texto."
        ' Si no hay eventos: {"events": []}. Formato:',
        "Ejemplos:",
        "Texto:",
        "Respuesta:",
        "Primero razona paso a paso en pocas frases; después da solo el JSON en la última línea.",
    ),
    "zh": _Words(
        "事件类型及其角色：",
        '只使用以上类型和角色。触发词和论元须照抄原文。没有事件时：{"events": []}。格式：',
        "示例：",
        "文本：",
        "答案：",
        "请先用几句话逐步推理，然后在最后一行只给出JSON。",
    ),
    "ru": _Words(
        "Типы событий и их роли:",
        "Используй только эти типы и роли. Триггеры и аргументы переписывай из текста."
        ' Если событий нет: {"events": []}. Формат:',
        "Примеры:",
        "Текст:",
        "Ответ:",
        "Сначала рассуждай по шагам в нескольких предложениях, затем дай только JSON в последней строке.",
    ),
}


def prompt_of(
    style: PromptStyle,
    language: str | None,
    text: str,
    schema: Schema | None = None,
    examples: Sequence[GenerativeSample] = (),
) -> str:
    """The prompt in ``language`` (English where there are no words in it); for a medium ``text`` may be empty.

    Args:
        style: which parts it has.
        language: of the sample.
        text: the source.
        schema: types in the order in which they are to be told; used if the style asks for it.
        examples: as many as the style asks for; see ``few_shots``.

    Raises ValueError where the style asks for what is not given.
    """
    known = language if language in _WORDS else "en"
    assert known is not None
    if style == PromptStyle():
        return f"{INSTRUCTIONS[known]}\n{text}" if text else INSTRUCTIONS[known]
    told = _WORDS[known]
    parts = [INSTRUCTIONS[known]]
    if style.schema:
        if not schema:
            raise ValueError(f"prompt {style}: found no schema, expected event types with their roles")
        parts += [told.schema, *schema_lines(schema), told.rules, FORMAT]
    if len(examples) != style.shots:
        raise ValueError(f"prompt {style}: found {len(examples)} examples, expected {style.shots}")
    if examples:
        parts.append(told.examples)
        for example in examples:
            parts += [f"{told.text} {json.dumps(example.source, ensure_ascii=False)}"]
            parts += [f"{told.answer} {dumps(example.events)}"]
    if style.reason:
        parts.append(told.reason)
    return "\n".join([*parts, SEPARATOR, text] if text else parts)


def schema_lines(schema: Schema) -> list[str]:
    """A line for each type: ``Life:Die: Agent, Victim``; one without roles is its name alone.

    Raises ValueError for a name of several lines, which could pass for another part of the prompt.
    """
    broken = next((name for names in schema.items() for name in (names[0], *names[1]) if "\n" in name), None)
    if broken is not None:
        raise ValueError(f"schema: found {broken!r}, expected names on one line")
    return [f"{event_type}: {', '.join(roles)}" if roles else event_type for event_type, roles in schema.items()]


def source_of(text: str) -> str:
    """The source that a prompt is about; of a text that is no prompt of ours, all of it."""
    for language, instruction in INSTRUCTIONS.items():
        if text == instruction:
            return ""
        if text.startswith(instruction + "\n"):
            below = text[len(instruction) + 1 :]
            told = _WORDS[language]
            if below.startswith((told.schema + "\n", told.examples + "\n", told.reason + "\n")):
                return below.partition(f"\n{SEPARATOR}\n")[2]
            return "" if below == told.reason else below
    return text


def few_shots(
    samples: Iterable[GenerativeSample], language: str, count: int, seed: int, leave_out: str = "", letters: int = 600
) -> tuple[GenerativeSample, ...]:
    """Examples in ``language``: always the same for a seed, in whatever order the samples come.

    Args:
        samples: training data.
        language: of the examples.
        count: how many.
        seed: of the choice.
        leave_out: id of the sample that the prompt is about, which must not be shown with its answer.
        letters: that an example's source has at most; it has some, and it tells an event.

    Raises ValueError where there are too few.
    """
    fit = [
        sample
        for sample in samples
        if sample.language == language and sample.events and 0 < len(sample.source) <= letters
    ]
    fit = [sample for sample in fit if sample.id != leave_out]
    if len(fit) < count:
        raise ValueError(f"examples in {language}: found {len(fit)} samples with events, expected {count}")
    return tuple(sorted(fit, key=lambda sample: hashlib.sha256(f"{seed}\n{sample.id}".encode()).digest())[:count])


def schema_of(samples: Iterable[GenerativeSample]) -> dict[str, tuple[str, ...]]:
    """The types and roles that the samples' events have, both in alphabetical order."""
    found = dict[str, set[str]]()
    for sample in samples:
        for event in sample.events:
            found.setdefault(event.event_type, set()).update(role for role, _ in event.arguments)
    return {event_type: tuple(sorted(found[event_type])) for event_type in sorted(found)}


class Reasoned(NamedTuple):
    """An answer to a prompt that asks for reasoning, read."""

    parsed: Parsed
    reasoned: bool
    """JSON alone on the last line, and text before it: as asked. Its state is ``ok``."""


def parse_reasoned(output: str) -> Reasoned:
    """Read an answer that may reason first: its last line if that is JSON alone, else from its last ``{"events"`` on.

    Brackets in the reasoning are not taken for the answer. Other answers are read as ``parse`` does.
    """
    whole = parse(output)
    body = output.rstrip()
    if whole.state == "ok":
        return Reasoned(whole, False)
    last = parse(body.rpartition("\n")[2])
    if last.state == "ok":
        return Reasoned(last, True)
    start = body.rfind('{"events"')
    tail = parse(body[start:]) if start >= 0 else whole
    return Reasoned(Parsed(tail.events, "repaired") if tail.events else whole, False)
