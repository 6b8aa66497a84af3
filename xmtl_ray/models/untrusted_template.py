"""A chat template of a model from elsewhere, tried before it is used: it is a program, and it comes with the weights.

transformers runs it in Jinja's sandbox, which keeps it from Python but not from looping for ever or filling the memory.
So it writes a few conversations in a child process with limits first. The surprising fact: a template that waits with
its mischief for a certain date or word passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from xmtl_ray.models import template_child
from xmtl_ray.models.chat import ChatError

CPU_S, MEMORY_MIB, WALL_S = 2, 512, 60.0
"""A template takes milliseconds; the wall time is for a machine that is busy."""
LETTERS = 100_000
"""A conversation of a few words becomes some hundred; system messages in templates have some thousand."""


def check(template: str | Mapping[str, str] | None, tokens: Mapping[str, str], kinds: Sequence[str] | None) -> None:
    """Let ``template`` write some conversations, in another process with limits.

    Args:
        template: one, or several by name; None: there is nothing to try.
        tokens: bos_token and the like, which templates name.
        kinds: of media; content is a list of parts then. None: content is text.

    Raises ChatError for a template that reaches out of its sandbox, does not end, or writes or takes too much.
    """
    if template is None:
        return
    templates = [template] if isinstance(template, str) else list(template.values())
    told = {"templates": templates, "conversations": _conversations(kinds), "tokens": dict(tokens)}
    limits = {"cpu_s": CPU_S, "memory_mib": MEMORY_MIB}
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-I", template_child.__file__, json.dumps(limits)],
            input=json.dumps(told).encode() + b"\n",
            capture_output=True,
            timeout=WALL_S,
            check=False,
            cwd="/",
            env={},
        )
        answer = json.loads(done.stdout or b"{}")
    except subprocess.TimeoutExpired:
        answer = {}
    except ValueError:  # the child was taken over: what it says is worth nothing
        answer = {"refused": "no end that was foreseen"}
    if "letters" not in answer:
        found = answer.get("refused", f"no end within {CPU_S} s and {MEMORY_MIB} MiB")
    elif answer["letters"] > LETTERS:
        found = f"{answer['letters']} letters for a few words"
    else:
        return
    raise ChatError(f"chat template: found {found}, expected a conversation in words; it is not used")


def special(tokenizer: Any) -> dict[str, str]:
    """The tokens that templates name, of a tokenizer."""
    return {name: str(value) for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}


def _conversations(kinds: Sequence[str] | None) -> list[list[dict[str, Any]]]:
    def said(role: str, text: str, kind: str | None = None) -> dict[str, Any]:
        if kinds is None:
            return {"role": role, "content": text}
        return {"role": role, "content": [*([{"type": kind}] if kind else []), {"type": "text", "text": text}]}

    asked, answered = said("user", "Who met whom?"), said("assistant", "Nobody met.")
    return [
        [asked],
        [said("system", "You are helpful."), asked],
        [asked, answered, said("user", "Where?"), said("assistant", "In Rome.")],
        *([said("user", "What is it?", kind)] for kind in kinds or ()),
    ]
