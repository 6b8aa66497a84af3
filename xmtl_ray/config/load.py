"""YAML and dotted overrides → config, and back.

A recipe is a complete YAML file in the package (``xmtl``) or a path. Errors name the dotted path; a name that does
not exist is answered with the nearest that does.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from xmtl_ray.config.schema import Config


class ConfigError(ValueError):
    """A recipe or an override that makes no config: the dotted path, what was found, what was expected."""


class _Loader(yaml.SafeLoader):
    """YAML 1.1 with 1.2's floats (``1e-4`` is a number) and no key twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"line {node.start_mark.line + 1}: {key!r} is set twice")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def recipes() -> list[str]:
    """Names of the recipes in the package."""
    return sorted(
        item.name.removesuffix(".yaml")
        for item in (files("xmtl_ray") / "recipes").iterdir()
        if item.name.endswith(".yaml")
    )


def load(recipe: str, overrides: Sequence[str] = ()) -> Config:
    """Recipe name or YAML path, with ``path.to.field=value`` on top → a validated config.

    Relative paths of the data section are put under ``data.root`` and made absolute, for workers change folder.
    Raises ConfigError.
    """
    tree = _read(recipe)
    for override in overrides:
        _apply(tree, override)
    return build(tree)


def loads(text: str) -> Config:
    """What ``dump`` wrote → the config. Raises ConfigError."""
    return build(_parse(text, "saved settings"))


def build(tree: dict[str, Any]) -> Config:
    """A tree of plain values → a validated config with absolute paths. Raises ConfigError."""
    try:
        return _absolute(Config.model_validate(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error))) from None


def dump(config: Config) -> str:
    """Canonical YAML of the whole tree; loading it gives the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def flatten(config: Config) -> dict[str, str | int | float | bool | None]:
    """Dotted path → value, tuples as text: MLflow's parameters."""
    return {path: value for path, value, _ in leaves(config)}


def leaves(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """(dotted path, value, meaning) of every field under ``section``."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            plain = value if isinstance(value, str | int | float | None) else str(value)
            yield f"{prefix}{name}", plain, " ".join((field.description or "").split())


def _read(recipe: str) -> dict[str, Any]:
    path = Path(recipe)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ConfigError(f"{path}: no such file")
        text, where = path.read_text(encoding="utf-8"), str(path)
    elif recipe in recipes():
        text, where = (files("xmtl_ray") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8"), recipe
    else:
        raise ConfigError(f"no recipe {recipe!r}{_nearest(recipe, recipes())}; there are {', '.join(recipes())}")
    return _parse(text, where)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: found {type(tree).__name__}, expected a mapping of settings")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r}: expected path.to.field=value")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError:
        raise ConfigError(f"{path}: {text!r} is not YAML") from None
    *parents, leaf = path.split(".")
    for depth, name in enumerate(parents):
        child = tree.get(name)
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{path}: {'.'.join(parents[: depth + 1])} is a value and has no field {leaf!r}")
        tree = child
    tree[leaf] = value


def _lines(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield f"{path}: no such field{_nearest(str(item['loc'][-1]), _fields_at(item['loc'][:-1]))}"
        elif item["type"] == "missing":
            yield f"{path}: missing, expected a value"
        elif path and item["type"] != "value_error":
            message = item["msg"].removeprefix("Input should be ")
            yield f"{path}: found {item['input']!r}, expected {message}"
        else:
            yield f"{path + ': ' if path else ''}{item['msg'].removeprefix('Value error, ')}"


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        members = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
        section = next(m for m in members if isinstance(m, type) and issubclass(m, BaseModel))
    return list(section.model_fields)


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(names)}"


def _absolute(config: Config) -> Config:
    root = config.data.root.expanduser().resolve()

    def under_root(section: BaseModel) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        for name in type(section).model_fields:
            value = getattr(section, name)
            if isinstance(value, Path):
                changes[name] = root / value.expanduser()
            elif isinstance(value, BaseModel):
                changes[name] = value.model_copy(update=under_root(value))
        return changes

    def absolute(section: BaseModel) -> dict[str, Any]:
        found = {name: getattr(section, name) for name in type(section).model_fields}
        return {name: value.expanduser().resolve() for name, value in found.items() if isinstance(value, Path)}

    data = config.data.model_copy(update={**under_root(config.data), "root": root})
    pseudo, teachers = config.multitask.pseudo, config.distill.teachers
    multitask = config.multitask.model_copy(update={"pseudo": pseudo.model_copy(update=absolute(pseudo))})
    distill = config.distill.model_copy(update={"teachers": teachers.model_copy(update=absolute(teachers))})
    storage = config.storage_path if "://" in config.storage_path else str(Path(config.storage_path).resolve())
    model = config.model.model_copy(
        update={name: _folder(getattr(config.model, name)) for name in ("text_encoder", "image_encoder")}
    )
    return config.model_copy(
        update={"data": data, "storage_path": storage, "model": model, "multitask": multitask, "distill": distill}
    )


def _folder(name: str) -> str:
    """An existing local folder as an absolute path; anything else is a Hugging Face name and stays."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name
