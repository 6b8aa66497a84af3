"""What an optimizer does differently for some weights of a generative model: the rate of its eyes, and no decay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

TOWER = "tower."
"""What the vision tower's weights' names begin with, where it is ours."""


class Group(NamedTuple):
    """Weights that share a learning rate and a decay."""

    names: list[str]
    parameters: list[Tensor]
    connector: bool
    decays: bool


def groups(
    model: nn.Module, *, separate_connector: bool, norms_decay: bool = False, connector_prefix: str = "connector."
) -> Iterator[Group]:
    """The weights of ``model`` that learn, in groups that are not empty, each in the model's order.

    Biases and norms do not decay.

    Args:
        model: what learns.
        separate_connector: the connector, and a tower that learns, in groups of their own, for a rate of their own.
        norms_decay: as the original has it, whose trainer does not know the language models' RMS norms as norms: they
            decay. Its other norms do not in either case.
        connector_prefix: what the connector's weights' names begin with.
    """
    kept = {f"{path}.{name}" for path, part in model.named_modules() for name, _ in part.named_parameters(recurse=False)
            if _is_norm(part, norms_decay)}  # fmt: skip
    named: dict[str, Any] = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for connector in (False, True) if separate_connector else (False,):
        for decays in (True, False):
            names = [
                name
                for name in named
                if (not separate_connector or name.startswith((connector_prefix, TOWER)) == connector)
                and (name not in kept and "bias" not in name) == decays
            ]
            if names:
                yield Group(names, [named[name] for name in names], connector, decays)


def _is_norm(part: nn.Module, norms_decay: bool) -> bool:
    return isinstance(part, nn.LayerNorm) or (not norms_decay and type(part).__name__.endswith("RMSNorm"))
