"""A sweep in MLflow: a run of its own, and one of each trial as its child.

Trials write to their journals and send them themselves. What a trial that was stopped could not send any more, and how
it ended, is sent here, by a thread: a server that is away holds no trial up.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xmtl_ray.config.load import flatten
from xmtl_ray.config.schema import Config
from xmtl_ray.pipeline.tracked import Parent
from xmtl_ray.tracking.journal import JOURNAL, Journal
from xmtl_ray.tracking.run import STATE, Unsent, settle, sync
from xmtl_ray.tuning.configs import AnyConfig
from xmtl_ray.tuning.ledger import Trial
from xmtl_ray.tuning.space import Space

log = logging.getLogger(__name__)

STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""A trial's state → its run's."""
PATIENCE_S = 60.0
"""How long the workers of a stopped trial are given to be gone."""


class Tracked:
    """The sweep's run, and the ends of its children.

    The database is made, and the sweep's run in it, before any trial begins: trials that were first to come would make
    it all at once.
    """

    def __init__(self, folder: Path, config: AnyConfig, space: Space) -> None:
        named: Any = config.model_copy(update={"name": space.name})
        assert isinstance(named, Config) or flatten(named)
        self.parent = Parent(folder, named)
        self.journal = self.parent.run.journal
        varied = {f"space.{path}": domain.told() for path, domain in space.space.items()}
        self.journal.parameters(varied)
        self.journal.tags(
            {"sweep.search": space.search, "sweep.metric": space.metric, "sweep.mode": space.mode, "kind": "sweep"}
        )
        self._ended: queue.Queue[tuple[Trial, str] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send_ends, name="trial-ends", daemon=True)
        self._thread.start()

    def id(self) -> str | None:
        """Of the sweep's run, as soon as the server has given one."""
        return self.parent.id()

    def ended(self, trial: Trial) -> None:
        """A trial is over: its run is told, later."""
        self._ended.put((trial, trial.state))

    def progress(self, ended: int, best: float | None) -> None:
        """The best metric after so many trials."""
        if best is not None:
            self.journal.metrics(ended, {"sweep/best": best})

    def close(self, status: str, tags: Mapping[str, str], artifacts: tuple[str, ...]) -> None:
        """End the sweep's run, after the trials' ends have been sent."""
        self._ended.put(None)
        self._thread.join(2 * PATIENCE_S)
        self.journal.tags(dict(tags))
        for name in artifacts:
            self.journal.artifact(name)
        self.journal.status(status)
        self.parent.run.close(grace_s=30)

    def _send_ends(self) -> None:
        while (item := self._ended.get()) is not None:
            trial, state = item
            tell_end(trial, state)


def tell_end(trial: Trial, state: str) -> None:
    """Bring a trial's run to its end in MLflow, whatever its processes could still say."""
    folder = trial.folder
    if not (folder / JOURNAL).exists():
        return
    until = time.monotonic() + PATIENCE_S
    stopped = state == "stopped"
    while not settle(folder, STATUS[state], stopped) and _status(folder) == "RUNNING" and time.monotonic() < until:
        time.sleep(0.5)
    journal = Journal(folder)
    tags = {"sweep.trial": trial.id, "sweep.state": state}
    journal.tags(tags | ({"sweep.metric.value": f"{trial.metric:g}"} if trial.metric is not None else {}))
    if _status(folder) != STATUS[state]:
        journal.status(STATUS[state])
    journal.close()
    if (folder / STATE).exists():
        try:
            sync(folder)
        except Unsent as error:
            log.warning("%s; later: xmtl sync %s", error, folder)


def _status(folder: Path) -> str | None:
    found = None
    for line in (folder / JOURNAL).read_bytes().splitlines():
        if b'"status"' in line:
            found = json.loads(line).get("status", found)
    return found
