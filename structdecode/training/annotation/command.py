"""``structdecode annotate``, behind the command line: options checked, then a run or an estimate."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from structdecode.backends.openai.api import ChatApi
from structdecode.core.errors import ConfigError, DataError
from structdecode.core.problems import Rejected
from structdecode.core.reading import one_line
from structdecode.core.settings import assignments, verifier_from
from structdecode.matching import LLMJudge
from structdecode.training.annotation import run
from structdecode.training.annotation.annotator import Annotator
from structdecode.training.annotation.checks import AnswerCheck, Filter
from structdecode.training.annotation.client import ChatClient, Client, JournalClient
from structdecode.training.annotation.costs import CostLimiter, Prices
from structdecode.training.annotation.estimate import estimate
from structdecode.training.annotation.journal import Journal
from structdecode.training.annotation.pictures import ImageStore
from structdecode.training.annotation.progress import tokens_and_cost
from structdecode.training.annotation.sources import Item, Source, read

KEY = "OPENAI_API_KEY"

UNANSWERED, FAILED, COST_REACHED, INTERRUPTED = 1, 1, 3, 130


@dataclass(frozen=True)
class Options:
    """Everything that the command line says; see its help.

    Raises:
        ConfigError: options that do not go together, or a value out of range.
    """

    sources: Sequence[str]
    out: Path
    model: str
    judge_model: str | None = None
    base_url: str | None = None
    concurrency: int = 16
    retries: int = 2
    max_tokens: int = 2048
    temperature: float | None = None
    timeout: float = 300.0
    tries: int = 6
    verifier: str | None = None
    min_score: float | None = None
    settings: Sequence[str] = ()
    verifier_model: str | None = None
    verifier_backend: str | None = None
    prices: Prices = field(default_factory=Prices)
    max_cost: float | None = None
    extra: str = ""
    seed: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0), ("max_tokens", 1), ("tries", 1), ("timeout", 1)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} must be at least {least}, not {getattr(self, name)}")
        if not self.sources:
            raise ConfigError("give at least one --source PATH")
        if (self.verifier is None) != (self.min_score is None):
            raise ConfigError("--verifier and --min-score go together: give both")
        if self.verifier is None and (self.settings or self.verifier_model or self.verifier_backend):
            raise ConfigError("--set, --verifier-model and --verifier-backend are for a --verifier")
        if self.max_cost is not None and not (self.max_cost > 0 and math.isfinite(self.max_cost)):
            raise ConfigError(f"--max-cost must be above 0, not {self.max_cost}")
        if self.max_cost is not None and not self.prices.known:
            raise ConfigError("--max-cost needs --price-in and --price-out, for a million tokens")

    @property
    def body(self) -> Mapping[str, Any]:
        """More fields of each request."""
        try:
            found = json.loads(self.extra or "{}")
        except ValueError as error:
            raise ConfigError(f"--extra-body: not JSON: {error}") from None
        if not isinstance(found, dict):
            raise ConfigError('--extra-body must be a JSON object: {"key": value}')
        return found

    def annotator(self, client: ChatClient, last_word: Filter | None) -> Annotator:
        no_judge = self.judge_model == "none"
        return Annotator(
            client, self.model, self.model if no_judge or self.judge_model is None else self.judge_model,
            AnswerCheck(None if no_judge else LLMJudge()), last_word, self.retries, self.max_tokens,
            self.temperature, self.body, self.seed,
        )  # fmt: skip

    def filter(self) -> Filter | None:
        """The verifier, if there is one. Raises `UnknownNameError` and the like where it cannot be made."""
        if self.verifier is None or self.min_score is None:
            return None
        made = verifier_from(self.verifier, assignments(self.settings))
        backend = None
        if self.verifier_model is not None or self.verifier_backend is not None:
            from structdecode.core.lookup import load_backend

            backend = load_backend(self.verifier_model, backend=self.verifier_backend)
        return Filter(made, self.verifier, self.min_score, backend)

    @property
    def described(self) -> dict[str, Any]:
        """For ``annotation.json``: what decided the answers; no address, which may hold a secret, and no key."""
        return {
            "sources": list(self.sources), "model": self.model, "judge_model": self.judge_model or self.model,
            "retries": self.retries, "max_tokens": self.max_tokens, "temperature": self.temperature,
            "extra_body": dict(self.body), "verifier": self.verifier, "min_score": self.min_score,
            "verifier_settings": list(self.settings), "verifier_model": self.verifier_model,
            "verifier_backend": self.verifier_backend, "seed": self.seed,
        }  # fmt: skip


def annotate(options: Options) -> int:
    """Runs, says how it ended, and gives the exit code.

    Raises:
        StructdecodeError: a mistake in the options or the data, or an API that takes no request.
    """
    key, last_word, _ = _key(options.base_url), options.filter(), options.body  # mistakes first, before any work
    options.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.out / "journal.jsonl")
    try:
        entries = _read(options, ImageStore(options.out))
        outcome = asyncio.run(_annotate(options, key, last_word, journal, entries))
        cost = tokens_and_cost(journal, options.prices)
    finally:
        journal.close()
    _tell(f"{outcome.accepted} accepted, {outcome.rejected} rejected{_listed(outcome.reasons)}, {cost}")
    print(f"Wrote {options.out / 'train.jsonl'} and {options.out / 'rejected.jsonl'}")
    if outcome.undecided or outcome.unanswered:
        why = outcome.stopped or f"{outcome.unanswered} records had no answer from the API"
        left = outcome.undecided + outcome.unanswered
        _tell(f"{why}; {left} records are left: run the same command again to resume with them")
    if outcome.failed:
        faults = {name: count for name, count in outcome.reasons.items() if name in run.FAULTS}
        _tell(
            f"{sum(faults.values())} records failed by a fault of structdecode's, a plug-in's or the disk's"
            f"{_listed(faults)}, the first {one_line(outcome.failed)}: mend or report it; the same command tries them again"
        )
    if outcome.interrupted:
        return INTERRUPTED
    if outcome.failed:
        return FAILED
    if outcome.stopped:
        return COST_REACHED
    return UNANSWERED if outcome.unanswered else 0


async def _annotate(
    options: Options, key: str, last_word: Filter | None, journal: Journal, entries: Sequence[Item | Rejected]
) -> run.AnnotationResult:
    api = ChatApi(options.base_url, key, options.timeout)
    try:
        limiter = CostLimiter(options.prices, journal, options.max_cost)
        client = Client(api, journal, limiter, concurrency=options.concurrency, tries=options.tries)
        settings = run.Settings(options.out, options.concurrency, options.prices, options.described, options.quiet)
        return await run.annotate(entries, options.annotator(client, last_word), client, journal, settings)
    finally:
        await api.close()


def dry_run(options: Options) -> int:
    """Prints what a run would ask and cost. Sends and writes nothing, and needs no key. The exit code: 0."""
    last_word = options.filter()
    journal = Journal(options.out / "journal.jsonl", writing=False)
    try:
        entries = _read(options, ImageStore(None))
        items = [entry for entry in entries if isinstance(entry, Item)]
        annotator = options.annotator(JournalClient(journal), last_word)
        found = asyncio.run(estimate(items, annotator, journal, options.prices))
    finally:
        journal.close()
    for line in found.lines(options.prices.known):
        print(line)
    return 0


def _read(options: Options, store: ImageStore) -> list[Item | Rejected]:
    if not options.quiet:
        _tell(f"reading {', '.join(options.sources)}")
    entries = read([Source.parse(source) for source in options.sources], store, note=_tell)
    rejected = [entry for entry in entries if isinstance(entry, Rejected)]
    if len(rejected) == len(entries):
        if rejected and store.out is not None:
            run.write_rejected(store.out, rejected)
        first = f": {rejected[0]}" if rejected else ""
        raise DataError(f"{', '.join(options.sources)}: no usable record{first}")
    if rejected:
        reasons = Counter(entry.problem for entry in rejected)
        _tell(f"{len(rejected)} of {len(entries)} records cannot be used{_listed(dict(sorted(reasons.items())))}")
    return entries


def _key(base_url: str | None) -> str:
    """From the environment alone. A server of one's own may want none."""
    key = os.environ.get(KEY, "").strip()
    if not key and base_url is None and not os.environ.get("OPENAI_BASE_URL"):
        raise ConfigError(f"no API key: set {KEY} in the environment, or give --base-url for a server without one")
    return key or "none"


def _listed(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{name} {count}' for name, count in reasons.items())})" if reasons else ""


def _tell(text: str) -> None:
    print(f"annotate: {text}", file=sys.stderr)
