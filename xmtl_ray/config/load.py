"""YAML and dotted overrides → config, and back.

A recipe is a complete YAML file in the package (``xmtl``) or a path. Errors name the dotted path; a name that does
not exist is answered with the nearest that does.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.run import Run
from xmtl_ray.config.schema import Config
from xmtl_ray.config.uris import cache_of, is_copy, is_uri, refuse_keys

C = TypeVar("C", bound=Run)
S = TypeVar("S", bound=BaseModel)


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
    """Recipe name or YAML path of X-MTL, with ``path.to.field=value`` on top → a validated config.

    Relative paths of the data section are put under ``data.root`` and made absolute, for workers change folder.
    Raises ConfigError.
    """
    return load_as(Config, recipe, overrides)


def load_as(kind: type[C], recipe: str, overrides: Sequence[str] = ()) -> C:
    """As ``load``, for a recipe of ``kind``. Raises ConfigError, also for a recipe of the other kind."""
    tree = _read(recipe)
    for override in overrides:
        _apply(tree, override)
    found = kind_of(tree)
    if found is not kind:
        raise ConfigError(f"{recipe}: found {_VERBS[found]}, expected {_VERBS[kind]}")
    return build(tree, kind)


def load_any(recipe: str, overrides: Sequence[str] = ()) -> Config | FinetuneConfig:
    """As ``load``, for a recipe of either kind. Raises ConfigError."""
    return load_as(kind_of(_read(recipe)), recipe, overrides)


def kind_of(tree: Mapping[str, Any]) -> type[Config] | type[FinetuneConfig]:
    """Whether a tree of plain values is X-MTL's or fine-tunes a generative model: only that names a family."""
    model = tree.get("model")
    return FinetuneConfig if isinstance(model, Mapping) and "family" in model else Config


_VERBS: dict[type[Run], str] = {
    Config: "a recipe of X-MTL (xmtl train)",
    FinetuneConfig: "a recipe of a generative model, with model.family (xmtl finetune)",
}


def loads(text: str, kind: type[C]) -> C:
    """What ``dump`` wrote → the config. Raises ConfigError."""
    return build(parse(text, "saved settings"), kind)


def build(tree: dict[str, Any], kind: type[C]) -> C:
    """A tree of plain values → a validated config with absolute paths. Raises ConfigError."""
    try:
        config = kind.model_validate(_behind_uri(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_lines(error, kind))) from None
    return _absolute(config)


def with_values(config: C, values: Mapping[str, Any]) -> C:
    """``config`` with other plain values at some dotted paths. Raises ConfigError."""
    tree = config.model_dump(mode="json")
    for path, value in values.items():
        _put(tree, path, value)
    return build(tree, type(config))


def changed(config: C, overrides: Sequence[str]) -> C:
    """``config`` with ``path.to.field=value`` on top. Raises ConfigError."""
    tree = config.model_dump(mode="json")
    for override in overrides:
        _apply(tree, override)
    return build(tree, type(config))


def dump(config: Run) -> str:
    """Canonical YAML of the whole tree; loading it gives the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)


def flatten(config: Run) -> dict[str, str | int | float | bool | None]:
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
    return parse(text, where)


def parse(text: str, where: str) -> dict[str, Any]:
    """YAML text → a tree of plain values; ``where`` names it in an error. Raises ConfigError."""
    tree = plain(text, where)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where}: found {type(tree).__name__}, expected a mapping of settings")
    return tree


def plain(text: str, where: str) -> Any:
    """YAML text → plain values, of any kind. Raises ConfigError, also where aliases or nesting go beyond measure."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is not None and _size(node, {}) > _MOST_VALUES:
            raise ConfigError(f"{where}: found more than {_MOST_VALUES} values, its aliases counted as often as used")
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        said = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"{where}: not YAML: {said}") from None


_MOST_VALUES = 100_000


def _size(node: yaml.Node, known: dict[int, float]) -> float:
    """Values below a node, those of an alias each time that it is used; of one that contains itself there is no end."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    below: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        below = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value
    known[id(node)] = 1 + sum(_size(each, known) for each in below)
    return known[id(node)]


def _apply(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r}: expected path.to.field=value")
    try:
        value = plain(text, path)
    except ConfigError:
        raise ConfigError(f"{path}: {text[:200]!r} is not YAML") from None
    _put(tree, path, value)


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, leaf = path.split(".")
    for depth, name in enumerate(parents):
        child = tree.get(name)
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{path}: {'.'.join(parents[: depth + 1])} is a value and has no field {leaf!r}")
        tree = child
    tree[leaf] = value


def _lines(error: ValidationError, kind: type[Run]) -> Iterator[str]:
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            yield f"{path}: no such field{_nearest(str(item['loc'][-1]), _fields_at(kind, item['loc'][:-1]))}"
        elif item["type"] == "missing":
            yield f"{path}: missing, expected a value"
        elif path and item["type"] != "value_error":
            message = item["msg"].removeprefix("Input should be ")
            yield f"{path}: found {item['input']!r}, expected {message}"
        else:
            yield f"{path + ': ' if path else ''}{item['msg'].removeprefix('Value error, ')}"


def _fields_at(kind: type[Run], location: tuple[int | str, ...]) -> list[str]:
    section: type[BaseModel] = kind
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        members = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
        section = next(m for m in members if isinstance(m, type) and issubclass(m, BaseModel))
    return list(section.model_fields)


def _nearest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(names)}"


def _behind_uri(tree: dict[str, Any]) -> dict[str, Any]:
    """``tree`` with a URI given as ``data.root`` in its own place: the root will be a copy of what is there."""
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(root := data.get("root"), str):
        return tree
    if is_uri(root):
        try:
            refuse_keys("data.root", root)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        return tree | {"data": data | {"uri": root, "root": str(cache_of(root))}}
    uri = data.get("uri")
    if isinstance(uri, str) and not is_copy(Path(root), uri):
        return tree | {"data": data | {"uri": None}}  # another root was given on top of saved settings
    return tree


def _absolute(config: C) -> C:
    """Every path made absolute: those of the data section start at its root, others at the working folder."""
    storage = config.storage_path if is_uri(config.storage_path) else str(Path(config.storage_path).resolve())
    changes: dict[str, Any] = {"storage_path": storage}
    if isinstance(config, Config):
        names, root = ("text_encoder", "image_encoder"), config.data.root.expanduser().resolve()
        pseudo, teachers = config.multitask.pseudo, config.distill.teachers
        changes["multitask"] = config.multitask.model_copy(update={"pseudo": _from_here(pseudo)})
        changes["distill"] = config.distill.model_copy(update={"teachers": _from_here(teachers)})
        changes["data"] = _under(config.data, root).model_copy(update={"root": root})
        changes["model"] = config.model.model_copy(update={n: _folder(getattr(config.model, n)) for n in names})
    elif isinstance(config, FinetuneConfig):
        root = config.data.root.expanduser().resolve()
        changes["data"] = _under(config.data, root).model_copy(update={"root": root})
        changes["model"] = config.model.model_copy(update={"path": _folder(config.model.path)})
    return config.model_copy(update=changes)


def _under(section: S, root: Path) -> S:
    """``section`` with its relative paths put under ``root``."""
    changes: dict[str, Any] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path):
            changes[name] = root / value.expanduser()
        elif isinstance(value, BaseModel):
            changes[name] = _under(value, root)
    return section.model_copy(update=changes)


def _from_here(section: S) -> S:
    """``section`` with its relative paths made absolute."""
    found = {name: getattr(section, name) for name in type(section).model_fields}
    paths = {name: value.expanduser().resolve() for name, value in found.items() if isinstance(value, Path)}
    return section.model_copy(update=paths)


def _folder(name: str) -> str:
    """An existing local folder as an absolute path; anything else is a Hugging Face name and stays."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name
