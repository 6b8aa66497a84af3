"""A verb's command line looked at without running it: is it one, and which of its paths are relative.

For a job on a cluster, whose folder is a copy that is deleted with it. What is wrong with a command costs nothing then:
neither an upload nor a place in a queue.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from xmtl_ray.config.finetune import FinetuneConfig
    from xmtl_ray.config.schema import Config

OUTPUTS = {"out", "html", "markdown", "samples", "voa"}
"""Parameters of verbs that name what is written."""
FOLDERS = {"model.path", "model.text_encoder", "model.image_encoder"}
"""Settings that name a folder, or a model of a hub: what is no folder here is taken for one."""
NOT_YET = {"data.root", "data.features"}
"""Settings of folders that a verb may make."""
RECIPES = {"train", "run", "finetune", "pseudo-label", "reproduce"}
"""Verbs that take settings on top of a recipe."""
STORED = {"train", "run", "finetune", "sweep"}
"""Verbs that write to `storage_path`."""

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Click's, or typer's own copy of it."""


class CommandError(ValueError):
    """A command line that cannot be run, in the words that the verb itself would use."""


@dataclass(frozen=True)
class Command:
    """A command line that parses and whose settings make a config."""

    arguments: tuple[str, ...]
    outputs: Mapping[str, str]
    """Relative paths of what is written, by option or setting."""
    inputs: Mapping[str, str]
    """Relative paths of what is read, as far as they are known from the command line."""


def inspect(app: typer.Typer, arguments: Sequence[str]) -> Command:
    """Parse the arguments of ``xmtl`` as the verb would, with all its settings.

    Raises CommandError for an unknown verb, option or value, and the ValueError that the verb's config raises.
    """
    given = list(arguments)
    try:
        context = _parsed(app, given)
    except _USAGE_ERROR as error:
        raise CommandError(f"xmtl {' '.join(given)}: {error.format_message()}") from None
    except typer.Exit:
        raise CommandError(f"{' '.join(given) or 'nothing'}: expected a verb that does something") from None
    _refuse_addresses(context)
    outputs, inputs = _parameters(context)
    for name in ("recipe", "space"):
        file = str(context.params.get(name))
        if file.endswith((".yaml", ".yml")) and not os.path.isabs(file):
            inputs[name.upper()] = file
    for path, value, is_output in _settings(context):
        (outputs if is_output else inputs)[path] = value
    return Command(tuple(given), outputs, inputs)


def refuse_addresses(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Raises CommandError for a URI where the verb takes a path, which would be taken for a folder called ``s3:`` here.

    What else is wrong with the arguments is for the verb to say.
    """
    if not any("://" in argument for argument in arguments):
        return
    try:
        context = _parsed(app, list(arguments))
    except (_USAGE_ERROR, typer.Exit, CommandError):
        return
    _refuse_addresses(context)


def _refuse_addresses(context: Any) -> None:
    for parameter, shown, path in _paths(context):
        if re.match(r"[A-Za-z][\w+.-]*:/[^/]", str(path)) is None:
            continue
        if parameter in OUTPUTS:
            why = "expected a path, for it is moved to its place in one step, which buckets do not know"
            how = "name a folder, on a cluster one that all machines mount, and copy it (aws s3 sync, gsutil rsync)"
        else:
            why, how = "expected a path", "bring it here first (aws s3 sync, gsutil rsync), or mount it"
        raise CommandError(f"{shown}: found {str(path).replace(':/', '://', 1)!r}, {why}; {how}")


def refuse_lost(command: Command) -> None:
    """Raises CommandError where a job would write into its own copy of the working directory."""
    if command.outputs:
        named = ", ".join(f"{name} {path}" for name, path in command.outputs.items())
        raise CommandError(
            f"{named}: relative, so in the job's copy of the working directory, which Ray deletes with the job; "
            "name a folder that all machines of the cluster see (absolute), or for storage_path a URI (s3://…, gs://…)"
        )


def _parsed(app: typer.Typer, arguments: list[str]) -> Any:
    """The innermost command's context: its values are in ``params``."""
    command: Any = typer.main.get_command(app)
    context, rest = command.context_class(command, info_name="xmtl"), arguments
    while hasattr(command, "resolve_command"):
        if not rest or rest[0].startswith("-"):
            raise CommandError(f"found {rest[0] if rest else 'nothing'}, expected a verb of {context.command_path}")
        name, command, rest = command.resolve_command(context, rest)
        if hasattr(command, "resolve_command"):
            context = command.context_class(command, parent=context, info_name=name)
        else:
            context = command.make_context(name, rest, parent=context)
    return context


def _parameters(context: Any) -> tuple[dict[str, str], dict[str, str]]:
    outputs: dict[str, str] = {}
    inputs: dict[str, str] = {}
    for name, shown, path in _paths(context):
        if not path.is_absolute():
            (outputs if name in OUTPUTS else inputs)[shown] = str(path)
    for parameter in context.command.params:
        value, shown = context.params.get(parameter.name or ""), _shown(parameter)
        if isinstance(value, str) and parameter.name in {"model", "adapter", "detector", "ner"}:
            path = value.partition(":")[2] if value.startswith(("hf:", "yolo:")) else value
            if "://" not in path and ":/" not in path and not os.path.isabs(path):
                inputs[shown] = path
    return outputs, inputs


def _paths(context: Any) -> Iterator[tuple[str, str, Path]]:
    """(parameter, how it is shown, value) of each that is a path."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        for one in value if isinstance(value, list | tuple) else [value]:
            if isinstance(one, Path):
                yield parameter.name or "", _shown(parameter), one


def _shown(parameter: Any) -> str:
    return parameter.opts[0] if parameter.opts[0].startswith("-") else (parameter.name or "").upper()


def _settings(context: Any) -> Iterator[tuple[str, str, bool]]:
    """(setting, relative path, whether it is written to) of the recipe that the verb would load."""
    from xmtl_ray.config.load import leaves

    # In an empty folder of its own a relative path shows by where it has become absolute.
    with tempfile.TemporaryDirectory() as name:
        folder = os.path.realpath(name)
        config = _config(context, folder)
        if config is None:
            return
        for path, value, _ in leaves(config):
            if not isinstance(value, str):
                continue
            if value == folder or value.startswith(folder + os.sep):
                written = path == "storage_path"
                if not written or context.info_name in STORED:
                    yield path, os.path.relpath(value, folder), written
            elif path in FOLDERS and not os.path.isabs(value) and os.path.isdir(value):
                yield path, value, False


def _config(context: Any, folder: str) -> Config | FinetuneConfig | None:
    given, verb = context.params, context.info_name
    if verb == "reproduce":
        from xmtl_ray.pipeline.reproduce import RECIPES as DEFAULTS
        from xmtl_ray.pipeline.reproduce import WORLD

        drawn = given["data"] == WORLD
        root = "data.root=" + json.dumps("/" if drawn else given["data"])
        given = {"recipe": given["recipe"] or DEFAULTS[drawn], "overrides": [root, *(given["overrides"] or [])]}
    if verb in RECIPES and given.get("recipe") is not None:
        from xmtl_ray.config.finetune import FinetuneConfig
        from xmtl_ray.config.load import load, load_as

        recipe, overrides = _file(given["recipe"]), given.get("overrides") or []
        with contextlib.chdir(folder):
            return load_as(FinetuneConfig, recipe, overrides) if verb == "finetune" else load(recipe, overrides)
    if verb == "sweep":
        from xmtl_ray.tuning.configs import base
        from xmtl_ray.tuning.space import load as load_space

        space = load_space(_file(given["space"]), given.get("overrides") or [])
        with contextlib.chdir(folder):
            return base(space.model_copy(update={"recipe": _file(space.recipe)}))
    return None


def _file(name: str) -> str:
    """A YAML file by its absolute path; a name stays."""
    return os.path.abspath(name) if name.endswith((".yaml", ".yml")) else name
