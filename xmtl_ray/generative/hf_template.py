"""What a processor's chat template writes, and whether that is fit to learn from and to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2

from xmtl_ray.models.chat import RAISED, ChatError, told


def written(processor: Any, said: Sequence[dict[str, Any]], *, generation: bool) -> str:
    """The conversation as the processor's template writes it. Raises ChatError where it refuses."""
    try:
        return processor.apply_chat_template(list(said), tokenize=False, add_generation_prompt=generation)
    except (jinja2.exceptions.TemplateError, *RAISED) as error:
        roles = ", ".join(message["role"] for message in said)
        raise ChatError(
            f"chat template: found {told(error)!r}, expected it to take {roles} with content as a list"
        ) from None


def user(text: str, kind: str | None = None) -> dict[str, Any]:
    """A message, its medium first."""
    medium = [] if kind is None else [{"type": kind}]
    return {"role": "user", "content": [*medium, {"type": "text", "text": text}]}


def end_of_answers(processor: Any) -> str:
    """The end token where the template does not write it itself. Raises ChatError."""
    tokenizer, answer = processor.tokenizer, "4711"
    if tokenizer.eos_token is None:
        raise ChatError("tokenizer: found no end token, expected one that ends answers")
    if not tokenizer("x", add_special_tokens=False)["input_ids"]:
        raise ChatError("tokenizer: found none of its pieces, expected tokenizer.json or the like")
    if tokenizer("x")["input_ids"][-1] != tokenizer("x", add_special_tokens=False)["input_ids"][-1]:
        raise ChatError("tokenizer: found a token put behind each text, expected none: prompts go on")
    said = [user("x"), {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    text = written(processor, said, generation=False)
    before, found, after = text.rpartition(answer)
    if not found or "'type'" in before:
        raise ChatError(f"chat template: found {text!r}, expected what was said, given as lists of content")
    return "" if tokenizer.eos_token in after else tokenizer.eos_token


def kinds(processor: Any) -> set[str]:
    """Media that processor and template know."""
    parts = {kind: getattr(processor, f"{kind}_processor", None) for kind in ("image", "video")}
    bare = written(processor, [user("x")], generation=True)
    found = {
        kind
        for kind, part in parts.items()
        if part is not None and written(processor, [user("x", kind)], generation=True) != bare
    }
    if found == set(parts):
        names = [set(part.model_input_names) for part in parts.values()]
        if names[0] & names[1]:  # one would stand in the other's place where a batch has both
            found.remove("video")
    return found
