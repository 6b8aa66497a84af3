"""What `xmtl models` shows: versions with aliases, scores and lineage, and every decision in its order."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from xmtl_ray.registry import decisions
from xmtl_ray.registry.server import check_name, registry
from xmtl_ray.tracking.registry import SHA256

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient


def models(tracking_uri: str | None) -> list[dict[str, Any]]:
    """Every registered model, without the logs of decisions: name, versions, aliases and the last decision."""
    with registry(tracking_uri, "models") as client:
        found: list[dict[str, Any]] = []
        token = None
        while True:
            page = client.search_registered_models(max_results=200, page_token=token)
            for each in page:
                if "xmtl.log" not in each.tags:
                    found.append(_summary(client, each))
            if not (token := page.token):
                return found


def one(name: str, tracking_uri: str | None) -> dict[str, Any]:
    """A registered model: its versions, newest first, and its decisions, and where its log was tampered with."""
    with registry(tracking_uri, check_name(name)) as client:
        state = decisions.read(client, name)
        aliases = client.get_registered_model(name).aliases
        versions = client.search_model_versions(f"name='{name}'", order_by=["version_number DESC"])
        return {
            "name": name,
            "champion": state.champion if state.begun else _text(aliases.get("champion")),
            "previous": state.previous if state.begun else _text(aliases.get("previous")),
            "aliases": {alias: str(version) for alias, version in aliases.items()},
            "versions": [_version(each, aliases) for each in versions],
            "decisions": [_decision(each) for each in state.decisions],
            "broken": list(state.broken),
        }


def _summary(client: MlflowClient, model: Any) -> dict[str, Any]:
    state = decisions.read(client, model.name)
    last = _decision(state.decisions[-1]) if state.decisions else None
    versions = client.search_model_versions(f"name='{model.name}'")
    return {
        "name": model.name,
        "versions": len(versions),
        "aliases": {alias: str(version) for alias, version in model.aliases.items()},
        "last_decision": last,
    }


def _version(version: ModelVersion, aliases: dict[str, Any]) -> dict[str, Any]:
    tags = dict(version.tags)

    def below(prefix: str) -> dict[str, str]:
        return {name.removeprefix(prefix): value for name, value in sorted(tags.items()) if name.startswith(prefix)}

    return {
        "version": str(version.version),
        "aliases": sorted(alias for alias, number in aliases.items() if str(number) == str(version.version)),
        "registered": _when(version.creation_timestamp),
        "family": tags.get("xmtl.family"),
        "run": tags.get("xmtl.run"),
        "run_id": version.run_id,
        "sha256": tags.get(SHA256),
        "base_sha256": tags.get("xmtl.base_sha256"),
        "ontology": tags.get("ontology"),
        "git_commit": tags.get("git.commit"),
        "size_bytes": int(tags.get("xmtl.size_bytes") or 0),
        "scores": {name: float(value) for name, value in below("score.").items()},
        "dev": {name: float(value) for name, value in below("dev.").items()},
        "data": below("data.sha256."),
        "teachers": below("teacher."),
        "decision": tags.get("xmtl.decision"),
    }


def _decision(decision: decisions.Decision) -> dict[str, Any]:
    entry = decision.entry
    return {
        "number": decision.number,
        "when": _when(entry.at_ms),
        "who": entry.by,
        "kind": entry.kind,
        "version": entry.version,
        "against": entry.expected,
        "outcome": decision.outcome,
        "why": entry.why,
        "request": entry.request,
        "run_id": entry.run_id,
    }


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(ms / 1000))


def _text(version: object) -> str | None:
    return None if version is None else str(version)
