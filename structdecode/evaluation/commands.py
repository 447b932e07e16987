"""``structdecode compare``, ``merge`` and ``report``: from what was asked for to a run directory with its report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from structdecode.core.environment import machine, versions
from structdecode.core.errors import ConfigError, ImageError, PromptError
from structdecode.core.jsonl import as_lines, write_new
from structdecode.core.paths import naming, write_atomically
from structdecode.core.problems import Rejected
from structdecode.core.progress import clock
from structdecode.core.reading import check_appendable
from structdecode.evaluation.code import CodeByCell, code_changes, codes_of, with_accepted
from structdecode.evaluation.identity import RECORD_VERSION, cluster_of, data_digest, model_identity
from structdecode.evaluation.progress import LiveCells
from structdecode.evaluation.shards import Process, Shard, difference
from structdecode.evaluation.study import DataSource, Study, from_options, load_study, overridden
from structdecode.matching.types import Question
from structdecode.pools.replay import ReplayBackend
from structdecode.pools.store import Pool, PoolWriter
from structdecode.pools.tape import prompt_key
from structdecode.records.store import FORMAT, read_records, read_run, read_study, rejected_lines

if TYPE_CHECKING:
    from structdecode.core.protocols import Backend
    from structdecode.evaluation.cells import Cell
    from structdecode.evaluation.recording import Matcher
    from structdecode.evaluation.runner import Trial


SELF = "self"
"""The judge's name where it is the model that answers."""


def study_of(
    file: Path | None,
    options: dict[str, Any],
    source: dict[str, Any],
    *,
    model: str | None,
    seeds: Sequence[int],
    judge: str | None = None,
) -> Study:
    """The study that the command's options say, by themselves or on top of a file.

    Raises:
        ConfigError: an option is wrong, missing, or is the file's to say.
    """
    if file is None:
        return from_options(data_of(source), model=model, judge=judge, seeds=seeds or [0], **options)
    images = None if source["images"] is None else str(source["images"])
    for name, value in {**options, "split": source["split"], "columns": source["columns"]}.items():
        if value:
            raise ConfigError(f"--{_OPTION.get(name, name)} is said by the study file {file}: leave it out")
    return overridden(
        load_study(file),
        model=model,
        judge=judge,
        data=source["source"],
        images=images,
        limit=source["limit"],
        cluster_by=source.get("cluster_by"),
        seeds=seeds,
    )


def data_of(source: Mapping[str, Any]) -> DataSource:
    """What a command's options say of the data.

    Raises:
        ConfigError: they name none, or one is wrong.
    """
    if source["source"] is None:
        raise ConfigError("name the questions with --data (pocket:test is the embedded world), or give a study file")
    columns = dict(_column(text) for text in source["columns"]) or None
    images = None if source["images"] is None else str(source["images"])
    return DataSource(source["source"], images, source["split"], source["limit"], columns, source.get("cluster_by"))


_OPTION = {"strategies": "strategy", "verifiers": "verifier", "settings": "set", "columns": "column"}


def _column(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ConfigError(f"--column takes field=name, not {text!r}")
    return name, value


def compare(
    study: Study,
    out: Path,
    *,
    shard: Shard | None = None,
    concurrency: int = 32,
    quiet: bool = False,
    report: bool = True,
    accept_changed_code: bool = False,
    command: Sequence[str] = (),
    record: Path | None = None,
    replay: Path | None = None,
    **loading: Any,
) -> int:
    """Loads data and model, runs what is left of a study, and writes the report when all is there.

    Args:
        accept_changed_code: resume a run that other code began; ``study.json`` and the report then say so.
        record: the pool that keeps what every search asks of the model. replay: a pool that takes the model's place.
        loading: for `structdecode.core.assembly.load_backend`: ``device``, ``dtype`` and so on.

    Returns:
        How many questions failed on our side, and cells whose verifier never worked or often failed (0: all is well).

    Raises:
        ConfigError: a mistake in the study, or the directory holds a run of another one.
    """
    from structdecode.core.lookup import load_backend
    from structdecode.data import load
    from structdecode.matching import match

    process = Process.of_environment()
    loading["device"] = loading.get("device") or process.device
    loading["backend"] = loading.get("backend") or study.backend
    _check_directory(out)
    if replay is not None and (record is not None or study.judge is not None):
        what = "--record" if record is not None else "a judge (its replies are not recorded)"
        raise ConfigError(f"--replay goes without {what}: leave one of them out")
    pool = None if replay is None else ReplayBackend.load(str(replay))  # before data is read
    if pool is not None and study.model not in (None, pool.pool.model["name"]):
        raise ConfigError(
            f"{replay}: holds searches of {pool.pool.model['name']}, not of {study.model}: leave --model out"
        )
    source = study.data
    loaded = load(
        source.source, images=None if source.images is None else Path(source.images), split=source.split, limit=source.limit, columns=source.columns, cluster_by=source.cluster_by
    )  # fmt: skip
    for note in loaded.notes if process.rank == 0 else ():
        _tell(note)
    backend = load_backend(study.model, **loading) if pool is None else pool
    judge = None if study.judge is None else backend if study.judge == SELF else load_backend(study.judge, **loading)
    part = (shard or Shard()).split(process.rank, process.world)
    return run_study(
        study, loaded.questions, loaded.rejected, backend, match, out, shard=part, concurrency=concurrency,
        quiet=quiet or process.rank > 0, report=report, command=command, data_name=loaded.name,
        file_digest=loaded.digest, judge=judge, accept_changed_code=accept_changed_code, record=record,
    )  # fmt: skip


def run_study(
    study: Study,
    questions: Sequence[Question],
    rejected: Sequence[Rejected],
    backend: Backend,
    match: Matcher,
    out: Path,
    *,
    shard: Shard | None = None,
    concurrency: int = 32,
    quiet: bool = False,
    report: bool = True,
    accept_changed_code: bool = False,
    command: Sequence[str] = (),
    data_name: str = "",
    file_digest: str = "",
    judge: Backend | None = None,
    record: Path | None = None,
) -> int:
    """`compare` with data and models at hand."""
    from structdecode.evaluation.judging import Judging
    from structdecode.evaluation.runner import Runner, plan_trials

    part = shard or Shard()
    kept, twice = _without_duplicates(questions)
    all_rejected = (*rejected, *twice)
    if not kept:
        raise ConfigError(f"{study.data.source}: no question left to ask ({_all_left_out(out, all_rejected)})")
    if isinstance(backend, ReplayBackend):
        _check_covered(backend.pool, study.cells, kept)
    model = model_identity(backend, study.model or "pocket")
    data = {
        **asdict(study.data), "name": data_name, "file_digest": file_digest, "digest": data_digest(kept),
        "questions": len(kept), "rejected": len(all_rejected),
    }  # fmt: skip
    config = {
        "record_version": RECORD_VERSION, "model": model, "data": data, "seeds": list(study.seeds),
        "cells": [cell.as_dict() for cell in study.cells],
    }  # fmt: skip
    judging = None
    if judge is not None:
        config["judge"] = identity = model_identity(judge, study.judge or SELF)
        judging = Judging(judge, identity["digest"])
    replayed = str(backend.pool.directory.name) if isinstance(backend, ReplayBackend) else None
    accepted = _open_directory(out, config, kept, all_rejected, command, accept_changed_code, replayed)
    pool = None if record is None else PoolWriter(record, model, getattr(backend, "flops", None), part.label)
    runner = Runner(out, backend, match, concurrency, part.label, judging, pool)
    mine = [question for question in kept if part.has(question)]
    models = [model["digest"], *([judging.digest] if judging else [])]
    trials = plan_trials(study.cells, mine, models, accepted)
    if pool is not None and record is not None:
        _check_kept(out, record, pool, trials)
    with LiveCells([cell.name for cell in study.cells], len(mine), quiet=quiet) as progress:
        try:
            added = runner.run(trials, progress)
        finally:
            if pool is not None:
                pool.close()
    if not quiet:
        _tell(
            f"{len(trials) - runner.unfinished} of {len(trials)} done ({added} now, {clock(progress.seconds)}) in {out}"
        )
    for place, error in list(runner.failures.items())[:5]:
        _tell(f"failed: {place}: {error}")
    for cell, (lacking, amounts) in runner.missing.items():
        listed = ", ".join(f"{count:,} {what}" for what, count in sorted(amounts.items()))
        _tell(f"{cell}: {lacking} of {len(mine)} questions are not covered by the pool, which lacks at least {listed}")
    if runner.failures:
        _tell(f"{len(runner.failures)} failed; the same command tries them again")
    broken = warn_of_broken(out)
    if report and _complete(out, plan_trials(study.cells, kept, models, accepted)):
        write_report(out)
    return runner.unfinished + broken


def _check_kept(out: Path, record: Path, pool: PoolWriter, trials: Sequence[Trial]) -> None:
    """A run that is resumed with a pool that lacks what the run has done: it would never get there."""
    done = read_records(out)
    asked = [
        (r.id, r.cell) for trial in trials if (key := trial.done(done)) is not None for r in [done[key]] if not r.error
    ]
    lacking = pool.lacking(asked) if asked else []  # reads the whole pool
    if lacking:
        pool.close()
        raise ConfigError(
            f"{record}: lacks {len(lacking)} of {len(asked)} searches that {out} has done: record into the pool that has them, or give another --out"
        )


def _check_covered(pool: Pool, cells: Sequence[Cell], questions: Sequence[Question]) -> None:
    """Before a run: a pool that was recorded of other data. Of many questions the first are looked at."""
    for question in questions[:20]:
        try:
            prompt = question.prompt()
        except (ImageError, PromptError):
            continue
        if any(prompt_key(cell.schema.for_prompt(prompt).ask(prompt)) in pool for cell in cells):
            return
    raise ConfigError(
        f"{pool.directory}: holds no search of the first {min(20, len(questions))} questions as these strategies ask them: it was recorded of "
        "other data, or with another schema"
    )


def write_report(directory: Path) -> None:
    """Writes the report of a run directory."""
    from structdecode.evaluation.report import write

    write(directory)


def warn_of_broken(directory: Path) -> int:
    """Names on stderr each cell whose verifier never worked or often failed, with the first error, quiet or not; returns how many."""
    from structdecode.evaluation.soundness import verifier_failure, verifier_gaps

    found = 0
    for name, records in read_run(directory).by_cell.items():
        if never := verifier_failure(records):
            _tell(f"{name}: {never}; its figures are those of an arbitrary choice")
        elif often := verifier_gaps(records):
            _tell(f"{name}: {often}; it is no evidence for that verifier")
        found += bool(never or often)
    return found


def _complete(out: Path, trials: Sequence[Trial]) -> bool:
    """Whether every question of every cell is there, whoever did it. The process that sees it writes the report."""
    done = read_records(out)
    return all(trial.done(done) is not None for trial in trials)


def _check_directory(out: Path) -> None:
    """Before a model is loaded: a place that cannot be a run directory."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file: --out takes a folder")
    begun = {"study.json", "questions.jsonl", "rejected.jsonl"}  # killed, or another process is at it just now
    there = {path.name for path in out.iterdir() if not path.name.startswith(".")} if out.is_dir() else set()
    if there and not there & begun:
        raise ConfigError(f"{out}: not empty and not a run directory: choose another folder")


def _all_left_out(out: Path, rejected: tuple[Rejected, ...]) -> str:
    """Why no row can be asked, and where each is named; a run that is there keeps its own."""
    _check_directory(out)
    said = f"{len(rejected)} rows were left out"
    if rejected and not (out / "study.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "rejected.jsonl", rejected_lines(rejected))
        said += f", listed in {out / 'rejected.jsonl'}"
    return said + (f"; the first: {rejected[0]}" if rejected else "")


def _open_directory(
    out: Path,
    config: dict[str, Any],
    questions: Sequence[Question],
    rejected: tuple[Rejected, ...],
    command: Sequence[str],
    accept_changed_code: bool,
    replayed: str | None,
) -> list[CodeByCell]:
    """Makes a run directory, or checks that the one there is of the same study; returns the code it has results of."""
    _check_directory(out)
    out.mkdir(parents=True, exist_ok=True)
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    session = {"started": started, "command": list(command), "versions": versions(), "machine": machine()}
    session |= {} if replayed is None else {"replayed": replayed}
    study = {"format": FORMAT, "config": config, **session}
    if not (out / "study.json").exists():
        write_atomically(out / "questions.jsonl", as_lines([_question_line(question) for question in questions]))
        write_atomically(out / "rejected.jsonl", rejected_lines(rejected))
        write_new(out / "study.json", json.dumps(study, indent=1, ensure_ascii=False) + "\n")
    there = read_study(out)
    if there["config"]["record_version"] < RECORD_VERSION:
        raise ConfigError(
            f"{out}: was begun by an earlier version, whose results may be others (records of form "
            f"{there['config']['record_version']}, now {RECORD_VERSION}): give another --out"
        )
    differs = difference(there, study)
    if differs is not None:
        raise ConfigError(f"{out}: holds a run of another study ({differs}): give the same options or another --out")
    there = _with_code(out, there, codes_of(study)[0], accept_changed_code)
    check_appendable(out / "sessions.jsonl")
    with naming(out / "sessions.jsonl"), (out / "sessions.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**session, "pid": os.getpid()}, ensure_ascii=False) + "\n")
    return codes_of(there)


def _with_code(out: Path, study: dict[str, Any], code: CodeByCell, accept: bool) -> dict[str, Any]:
    """``study.json`` as it is where this code has made it, with a word of other code where that is accepted."""
    changed = code_changes(codes_of(study), code)
    if not changed:
        return study
    if not accept:
        raise ConfigError(
            f"{out}: was begun with other code: {'; '.join(changed)}: give another --out, or --accept-changed-code to "
            "keep the results that are there"
        )
    study = with_accepted(study, code)
    write_atomically(out / "study.json", json.dumps(study, indent=1, ensure_ascii=False) + "\n")
    return study


def _question_line(question: Question) -> dict[str, Any]:
    return {
        "id": question.id, "text": question.text, "answers": list(question.answers), "options": dict(question.options),
        "kind": question.kind, "tolerance": question.tolerance, "category": question.category,
        "stages": dict(question.stages), "source": question.source, "cluster": cluster_of(question),
    }  # fmt: skip


def _without_duplicates(questions: Sequence[Question]) -> tuple[list[Question], list[Rejected]]:
    """The first question of each id: a second one would be paired with another cell's first."""
    kept: dict[str, Question] = {}
    twice = []
    for question in questions:
        if question.id not in kept:
            kept[question.id] = question
            continue
        file, _, line = question.source.rpartition(":")
        number = int(line) if line.isdecimal() else None
        message = f"id {question.id!r} was there before ({kept[question.id].source}): give each row an id of its own"
        twice.append(Rejected(file or question.source, number, "duplicate id", message))
    return list(kept.values()), twice


def _tell(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr)
