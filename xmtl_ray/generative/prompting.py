"""Conversations whose first prompt is put in another style: with the schema, with examples, asking for reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xmtl_ray.config.finetune import Prompt
from xmtl_ray.events.records import Conversation, GenerativeSample
from xmtl_ray.events.schema_prompt import PromptStyle, few_shots, prompt_of, source_of

Schema = Mapping[str, Sequence[str]]


def prompted(
    conversations: Iterable[Conversation],
    spec: Prompt,
    schema: Schema,
    examples: Sequence[GenerativeSample] = (),
    seed: int = 0,
) -> list[Conversation]:
    """The same conversations, first prompts as ``spec`` says; their sources and answers stay.

    Args:
        conversations: any.
        spec: the style; `instruction: data` changes nothing.
        schema: event type → roles.
        examples: training data that few-shot examples are taken from.
        seed: of their choice.

    Raises ValueError where there are too few examples in a language.
    """
    if spec.instruction == "data":
        return list(conversations)
    style = PromptStyle(schema=spec.schema_text, shots=spec.shots, reason=spec.reason)
    found = []
    for one in conversations:
        first, *others = one.turns
        language = one.language or "en"
        shown = few_shots(examples, language, spec.shots, seed, leave_out=one.id) if spec.shots else ()
        told = prompt_of(style, language, source_of(first.prompt), schema, shown)
        found.append(replace(one, turns=(replace(first, prompt=told), *others)))
    return found
