"""The data of a run, checked on the machine that launches it, before anything is rented."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.schema import IMAGE_TASKS, TEXT_TASKS, Config
from xmtl_ray.data import ace05, audit_report, imsitu, m2e2, videollama2
from xmtl_ray.data.audit import Record, Source, audit
from xmtl_ray.data.fingerprint import fingerprints
from xmtl_ray.events.ontology import verb_map
from xmtl_ray.events.records import DataError, Image, Report

log = logging.getLogger(__name__)

NAME = "data_check"

UNREADABLE = {"missing or unreadable medium"}
"""Kind of the audit's findings that is about single media."""


class UntrustedData(ValueError):
    """Data that must not be trained on: what was found, and where all of it stands."""


def check_data(config: Config | FinetuneConfig, folder: Path | None) -> audit_report.Report | None:
    """Audit what ``config.data`` names; None where it is switched off or was done before for the same files.

    Args:
        config: a run's settings.
        folder: the run's folder, where ``data_check.html`` and ``.json`` are written; None: nowhere.

    Raises UntrustedData for errors; warnings are logged.
    """
    if config.data.check == "none":
        return None
    prints = fingerprints(config.data) | {"check": config.data.check}
    done = None if folder is None else folder / f"{NAME}.json"
    if done is not None and done.exists() and json.loads(done.read_text(encoding="utf-8")).get("of") == prints:
        return None
    sources, test = _conversations(config) if isinstance(config, FinetuneConfig) else _sources(config)
    report = audit(sources, test, config.model.max_tokens, config.data.check == "full")
    errors = [finding for finding in report.findings if finding.level == "error"]
    if isinstance(config, FinetuneConfig):  # a few of these may be left out (data.max_quarantined): the workers count
        errors = [finding for finding in errors if finding.kind not in UNREADABLE]
    where = ""
    if folder is not None and done is not None:
        from xmtl_ray.report.audit_page import write_audit

        folder.mkdir(parents=True, exist_ok=True)
        page = folder / f"{NAME}.html"
        write_audit(page, report)
        body = report.as_dict() if errors else report.as_dict() | {"of": prints}
        done.write_text(json.dumps(body, indent=1, ensure_ascii=False), encoding="utf-8")
        where = f"; all of it: {page}"
    for finding in report.findings:
        if finding.level == "warning":
            log.warning("data: %s (%d), e.g. %s", finding.kind, finding.count, finding.examples[0])
    if errors:
        told = "\n".join(f"  {finding.kind} ({finding.count}), e.g. {finding.examples[0]}" for finding in errors)
        count = sum(finding.count for finding in errors)
        raise UntrustedData(f"data: {count} errors\n{told}\ndata.check=none trains all the same{where}")
    log.info("data: checked, %d warnings%s", sum(finding.count for finding in report.findings), where)
    return report


def _sources(config: Config) -> tuple[list[Source], list[Source]]:
    """What the tasks of ``config`` train on, and what they are tested on."""
    tasks, data = set(config.multitask.tasks), config.data
    sources, test = list[Source](), list[Source]()
    if tasks & set(TEXT_TASKS):
        if data.train is not None:
            sources.append(_source("data.train", partial(m2e2.read, data.train)))
        if data.ace is not None:
            for name, path in (("data.ace.train", data.ace.train), ("data.ace.dev", data.ace.dev)):
                if path is not None:
                    sources.append(_source(name, partial(ace05.stream, path, data.ace.extent)))
    if tasks & set(IMAGE_TASKS) and data.imsitu is not None:
        source = data.imsitu
        splits = [("data.imsitu.train", source.train, source.train_boxes)]
        if source.dev is not None and source.dev_boxes is not None:
            splits.append(("data.imsitu.dev", source.dev, source.dev_boxes))
        sources += [_source(name, partial(_refined, config, *files)) for name, *files in splits]
    if data.test is not None:
        test.append(_source("data.test", partial(m2e2.read, data.test, objects=data.test_objects)))
    return sources, test


def _conversations(config: FinetuneConfig) -> tuple[list[Source], list[Source]]:
    """What is learnt from, and what is answered at the end."""
    files = {"train": config.data.train, "dev": config.data.dev, "test": config.data.test}
    found = {
        name: _source(f"data.{name}", partial(videollama2.stream, path), config.data.media)
        for name, path in files.items()
        if path is not None
    }
    return [source for name, source in found.items() if name != "test"], [found["test"]] if "test" in found else []


def _source(name: str, read: Callable[..., Iterable[Record]], media: Path | None = None) -> Source:
    """What ``read`` gives, with the errors of its leniency."""
    errors = list[DataError]()
    return Source(name, read(on_error=errors.append), errors, media)


def _refined(config: Config, annotations: Path, boxes: Path, on_error: Report) -> Iterator[Image]:
    """The images that are trained on: files of others need not be there."""
    source = config.data.imsitu
    assert source is not None
    situations = tuple(imsitu.stream(annotations, boxes, source.images, source.space, on_error))
    yield from imsitu.refine(situations, verb_map(source.verb_map), source.keep_unmapped, config.train.seed)
