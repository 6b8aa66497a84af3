"""Conversations as a model is asked and taught them: prompts in a style, event JSON in the one layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from xmtl_ray.config.finetune import Prompt
from xmtl_ray.events.json_format import laid_out
from xmtl_ray.events.records import Conversation, GenerativeSample, Turn
from xmtl_ray.events.schema_prompt import PromptStyle, few_shots, prompt_of, source_of

Schema = Mapping[str, Sequence[str]]


def prompted(
    conversations: Iterable[Conversation],
    spec: Prompt,
    schema: Schema,
    examples: Sequence[GenerativeSample] = (),
    seed: int = 0,
) -> list[Conversation]:
    """The same conversations, first prompts as ``spec`` says, answers as ``json_format.laid_out``; their sources stay.

    Args:
        conversations: any.
        spec: the style; `instruction: data` changes no prompt.
        schema: event type → roles.
        examples: training data that few-shot examples are taken from.
        seed: of their choice.

    Raises ValueError where there are too few examples in a language.
    """
    taught = [
        replace(one, turns=tuple(Turn(turn.prompt, laid_out(turn.answer)) for turn in one.turns))
        for one in conversations
    ]
    if spec.instruction == "data":
        return taught
    style = PromptStyle(schema=spec.schema_text, shots=spec.shots, reason=spec.reason)
    found = []
    for one in taught:
        first, *others = one.turns
        language = one.language or "en"
        shown = few_shots(examples, language, spec.shots, seed, leave_out=one.id) if spec.shots else ()
        told = prompt_of(style, language, source_of(first.prompt), schema, shown)
        found.append(replace(one, turns=(replace(first, prompt=told), *others)))
    return found
