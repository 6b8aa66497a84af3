"""The pages' templates: autoescaped, strict about names, with the style and what all of them show alike."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from xmtl_ray.events.ontology import m2e2
from xmtl_ray.report.pictures import SIGNS, short_type


def render(template: str, **context: object) -> str:
    """The page that a template of this folder makes."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_text),
    )
    environment.filters["short_type"] = short_type
    return environment.get_template(template).render(
        style=Markup(_text("page.css")),  # noqa: S704 (ours)
        signs=SIGNS,
        type_order={event_type: index for index, event_type in enumerate(m2e2().types)},
        **context,
    )


def _text(name: str) -> str:
    return (files("xmtl_ray.report") / name).read_text(encoding="utf-8")
