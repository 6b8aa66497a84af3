"""What a sweep draws a setting from: a range, a list, or what another setting decides.

A drawn domain gives a coordinate, which is the setting's value, or with ``times`` its ratio to another setting's:
LoRA's alpha is drawn as a ratio to its rank, for what a ratio does depends little on the rank. The others are not
drawn: ``by`` looks another setting's value up, ``equals`` repeats it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from xmtl_ray.config.run import Section

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Scalar = bool | int | float | str | None

KINDS = ("uniform", "loguniform", "quniform", "int", "choice", "grid")
"""What is drawn."""
FOLLOWING = ("by", "equals")
"""What follows."""
ENDLESS = ("uniform", "loguniform")


class Domain(Section):
    """Exactly one of the drawn kinds, ``by`` with ``values``, or ``equals``."""

    model_config = ConfigDict(populate_by_name=True, strict=False)

    uniform: tuple[float, float] | None = None
    """Lowest and highest, all between alike."""
    loguniform: tuple[float, float] | None = None
    """Lowest and highest, above 0; each factor alike."""
    quniform: tuple[float, float, Annotated[float, Field(gt=0)]] | None = None
    """Lowest, highest, step: lowest, lowest + step, …"""
    integers: tuple[int, int] | None = Field(default=None, alias="int")
    """`int`: lowest and highest whole number, both included."""
    choice: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    """One of these."""
    grid: Annotated[tuple[Scalar, ...], Field(min_length=1)] | None = None
    """Each of these; with search: grid."""
    times: str | None = None
    """Dotted path of the setting that what is drawn is multiplied by."""
    by: str | None = None
    """Dotted path of a setting that decides, with `values`."""
    values: dict[Scalar, Scalar] | None = None
    """The deciding setting's value → this one's."""
    equals: str | None = None
    """Dotted path of the setting whose value this one has, too."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in (*KINDS, *FOLLOWING) if self._get(name) is not None]
        if len(given) != 1:
            found = ", ".join(given) or "none"
            raise ValueError(f"found {found}, expected exactly one of {', '.join((*KINDS, *FOLLOWING))}")
        if (self.by is None) != (self.values is None):
            raise ValueError("by and values go together: by: PATH, values: {ITS VALUE: OURS}")
        if self.times is not None and not self.drawn:
            raise ValueError(f"times goes with what is drawn, found {given[0]}")
        ends = self.uniform or self.loguniform or self.quniform or self.integers
        if ends is not None and not ends[0] < ends[1]:
            raise ValueError(f"{given[0]}: found {ends[0]:g} to {ends[1]:g}, expected the lowest first")
        if self.loguniform is not None and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform: found {self.loguniform[0]:g} as lowest, expected more than 0")
        listed = self.choice or self.grid
        if listed is not None and len(set(map(repr, listed))) != len(listed):
            raise ValueError(f"{given[0]}: a value is listed twice")
        if self.times is not None and any(isinstance(one, bool | str) or one is None for one in listed or ()):
            raise ValueError("times: expected numbers to multiply by")
        return self

    def _get(self, name: str) -> Any:
        return getattr(self, "integers" if name == "int" else name)

    @property
    def kind(self) -> str:
        """Its key in the file."""
        return next(name for name in (*KINDS, *FOLLOWING) if self._get(name) is not None)

    @property
    def drawn(self) -> bool:
        """Whether it is a coordinate of the search."""
        return self.by is None and self.equals is None

    @property
    def source(self) -> str | None:
        """Path of the setting that this one's value also depends on."""
        return self.times or self.by or self.equals

    def ends(self) -> tuple[Scalar, ...]:
        """What must be valid for all between to be: lowest and highest, or everything listed."""
        assert self.drawn
        return self.listed() if self.kind in {"choice", "grid"} else (self.fit(-math.inf), self.fit(math.inf))

    def listed(self) -> tuple[Scalar, ...]:
        """Every value; of a range without steps there are none to list."""
        if self.integers is not None:
            return tuple(range(self.integers[0], self.integers[1] + 1))
        if self.quniform is not None:
            low, high, step = self.quniform
            return tuple(_clean(low + step * number) for number in range(_steps(low, high, step) + 1))
        return self.choice or self.grid or ()

    def fit(self, value: Any) -> Scalar:
        """The nearest value that the domain has, of a number; of a list's value itself."""
        if self.integers is not None:
            return int(min(max(value, self.integers[0]), self.integers[1]))
        if self.quniform is not None:
            low, high, step = self.quniform
            last = _steps(low, high, step)
            number = min(max((value - low) / step, 0), last)
            return _clean(low + step * round(number))
        if (bounds := self.uniform or self.loguniform) is not None:
            return float(min(max(value, bounds[0]), bounds[1]))
        assert value in (self.choice or self.grid or ()), value
        return value  # type: ignore[no-any-return]

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.integers is not None:
            return IntDistribution(*self.integers)
        if self.quniform is not None:
            low, high, step = self.quniform
            return FloatDistribution(low, _clean(low + step * _steps(low, high, step)), step=step)
        if self.uniform is not None:
            return FloatDistribution(*self.uniform)
        if self.loguniform is not None:
            return FloatDistribution(*self.loguniform, log=True)
        return CategoricalDistribution(self.choice or self.grid or ())

    def told(self) -> str:
        """In words."""
        if self.by is not None:
            pairs = ", ".join(f"{key}: {value}" for key, value in (self.values or {}).items())
            return f"by {self.by} ({pairs})"
        if self.equals is not None:
            return f"equals {self.equals}"
        values = ", ".join(str(value) for value in self._get(self.kind))
        return f"{self.kind} [{values}]" + (f" × {self.times}" if self.times else "")


def _steps(low: float, high: float, step: float) -> int:
    return math.floor((high - low) / step + 1e-9)


def _clean(value: float) -> float:
    """Without the dust of adding steps: 0.1 + 2 × 0.1 is 0.3."""
    return round(value, 12)
