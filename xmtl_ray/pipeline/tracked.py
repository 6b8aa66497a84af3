"""The tracked run that a pipeline's stages are parts of, and its ties to theirs."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path

from xmtl_ray.config.load import flatten
from xmtl_ray.config.schema import Config
from xmtl_ray.data.fingerprint import fingerprints
from xmtl_ray.pipeline.running import Ended
from xmtl_ray.tracking.run import STATE, Run, Unsent, environment_tags, log_artifacts, settle, sync

log = logging.getLogger(__name__)


class Parent:
    """A pipeline's own run. With the server away nothing waits for long: the journal has it all."""

    def __init__(self, folder: Path, config: Config) -> None:
        spec = config.tracking
        self.run = Run(folder, spec.uri if spec.enabled else None, spec.experiment, config.name, interval_s=0.5)
        self.run.journal.parameters({name: value for name, value in flatten(config).items() if value is not None})
        prints = {f"sha256.{name}": value for name, value in fingerprints(config.data).items()}
        self.run.journal.tags(environment_tags(prints))

    def id(self, wait_s: float = 30.0) -> str | None:
        """Its MLflow id, as soon as the server has given one; None if it has not within ``wait_s``."""
        sender, until = self.run.sender, time.monotonic() + wait_s
        if sender is None:
            return None
        while sender.state.run_id is None and time.monotonic() < until:
            time.sleep(0.1)
        if sender.state.run_id is None:
            log.warning("%s has not answered: the stages' runs will not be tied to this one", sender.state.uri)
        return sender.state.run_id

    def close(self, ended: list[Ended]) -> None:
        """Tie each stage's run to this one by a tag, whether it was made now or before, and end."""
        journal = self.run.journal
        for item in ended:
            kind = item.planned.stage.name.replace(": ", ".").replace(" ", "_")
            tags = {f"stage.{kind}": item.how, f"stage.{kind}.key": item.planned.key}
            if (run_id := run_of(item.planned.folder)) is not None:
                tags[f"stage.{kind}.run"] = run_id
            journal.tags(tags)
            if item.how == "failed" and settle(item.planned.folder):
                self._send(item.planned.folder)
        journal.status("FINISHED" if ended and all(item.good for item in ended) else "FAILED")
        self.run.close(grace_s=30)

    def _send(self, folder: Path) -> None:
        """A stage whose process is gone sends nothing itself any more."""
        with suppress(FileNotFoundError):  # not tracked
            try:
                sync(folder)
            except Unsent as error:
                log.warning("%s; later: xmtl sync %s", error, folder)


def log_files(folder: Path, names: list[str]) -> None:
    """Log what a pipeline has made of its stages' results, where it is tracked."""
    if (folder / STATE).exists():
        try:
            log_artifacts(folder, names)
        except Unsent as error:
            log.warning("%s; later: xmtl sync %s", error, folder)


def run_of(folder: Path) -> str | None:
    """The MLflow run that a stage's folder belongs to."""
    with suppress(FileNotFoundError, ValueError):
        found = json.loads((folder / STATE).read_text(encoding="utf-8")).get("run_id")
        return None if found is None else str(found)
    return None
