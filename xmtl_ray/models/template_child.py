"""Runs as a process of its own, under limits: writes conversations by a chat template that nobody trusts.

``template_child.py LIMITS``; from standard input one line of JSON: ``templates``, ``conversations`` (lists of messages)
and ``tokens`` (bos_token and the like). To standard output one line: ``{"letters": N}`` of the longest text, or
``{"refused": why}`` for a template that reaches for what it may not have or asks for more than there is. What it raises
for other reasons, a role that it does not take, is left to who uses it. It renders as transformers does, and imports
nothing of it or of the package, so that it starts fast; after that not one file can be opened.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from datetime import datetime
from typing import Any, ClassVar

import jinja2
import jinja2.constants
import jinja2.debug
import jinja2.ext
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace


class Generation(jinja2.ext.Extension):
    """``{% generation %}``, which marks what an assistant writes and writes nothing itself."""

    tags: ClassVar[set[str]] = {"generation"}

    def parse(self, parser: Parser) -> Node:
        """Its body."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

    def _written(self, caller: Any) -> Any:
        return caller()


class Dictionary:
    """``dict`` without its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        """A new one."""
        return dict(*args, **kwargs)


class Names(Namespace):
    """``namespace`` that takes no name of Python's own."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"namespace: {name}")
        super().__setitem__(name, value)


def environment() -> ImmutableSandboxedEnvironment:
    """As transformers has it."""

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    made.globals |= {
        "raise_exception": refuse,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": Dictionary(),
        "namespace": Names,
    }
    return made


def longest(told: dict[str, Any]) -> int:
    """Letters of the longest text. Raises what a template may not do."""
    found, made = 0, environment()
    for template in told["templates"]:
        try:
            compiled = made.from_string(template)
        except jinja2.TemplateSyntaxError:
            continue
        for said in told["conversations"]:
            try:
                text = compiled.render(
                    messages=said, tools=None, documents=None, add_generation_prompt=True, **told["tokens"]
                )
            except SecurityError:
                raise
            except (jinja2.exceptions.TemplateError, TypeError, ValueError, LookupError, AttributeError):
                continue
            found = max(found, len(text))
    return found


def warm_up() -> None:
    """Have all loaded that Jinja loads when it first needs it; later not one file can be opened."""
    template = "{% for m in messages %}{{ 'a\\n' ~ m | tojson ~ 1.5 }}{% endfor %}{{ a.b }}"
    with contextlib.suppress(jinja2.TemplateError):
        environment().from_string(template).render(messages=[1])


def main() -> None:
    """See the module."""
    limits = json.loads(sys.argv[1])
    told = json.loads(sys.stdin.readline())
    warm_up()
    for kind, value in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_mib"] << 20),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (value, value))
    try:
        answer: dict[str, Any] = {"letters": longest(told)}
    except SecurityError as error:
        answer = {"refused": f"what a template may not touch ({str(error)[:200]})"}
    except (MemoryError, OverflowError, RecursionError) as error:
        answer = {"refused": f"{type(error).__name__}: more than a conversation needs"}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
