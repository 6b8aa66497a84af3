"""Where a run comes from: code, data, teachers, stages, and where its numbers are."""

from __future__ import annotations

from dataclasses import dataclass

from xmtl_ray.report.run_folder import Journal, Tracked

_SHORT = 12
"""Digits of a hash that are shown; the whole one is its title, and in MLflow."""


@dataclass(frozen=True)
class Source:
    """One thing that a run was made of."""

    what: str
    value: str
    hash: str = ""
    """Whole; empty where there is none."""
    note: str = ""

    @property
    def short(self) -> str:
        """The beginning of the hash."""
        return self.hash[:_SHORT]


def lineage(journal: Journal, tracked: Tracked | None) -> list[Source]:
    """Code, environment, data, pseudo-labels and teachers, and the run in MLflow, as far as the run's tags tell."""
    tags = journal.tags
    found = []
    if commit := tags.get("mlflow.source.git.commit"):
        clean = {"true": "", "false": "with changes that were not committed"}.get(tags.get("git.clean", ""), "")
        found.append(Source("code", "git commit", commit, clean))
    if "version.xmtl_ray" in tags:
        others = [
            f"{name} {tags[f'version.{name}']}" for name in ("torch", "ray", "mlflow") if f"version.{name}" in tags
        ]
        python = [f"Python {tags['python']}"] if "python" in tags else []
        found.append(Source("versions", ", ".join([f"xmtl_ray {tags['version.xmtl_ray']}", *others, *python])))
    words = {"pseudo.store": "pseudo-labels", "pseudo.source": "image-text pairs", "base": "base model"}
    if model := tags.get("registry.model"):
        found.append(Source("registered as", model, tags.get("xmtl.sha256", "")))
    for name, value in sorted(tags.items()):
        if name.startswith("sha256."):
            key = name.removeprefix("sha256.")
            teacher = key.removeprefix("pseudo.teacher.")
            label = f"teacher of {teacher}" if teacher != key else words.get(key, "data")
            found.append(Source(label, key, value))
    for name, value in sorted(tags.items()):
        if name.startswith("stage.") and name.endswith(".key"):
            found.append(Source("stage", name.removeprefix("stage.").removesuffix(".key"), value))
    if tracked is not None:
        found.append(
            Source(
                "MLflow",
                f"experiment {tracked.experiment}",
                tracked.run_id or "",
                "" if tracked.run_id else "not sent yet",
            )
        )
    if parent := tags.get("mlflow.parentRunId"):
        found.append(Source("MLflow", "part of run", parent))
    return found
