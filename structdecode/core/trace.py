"""What a search did, in full: every candidate, every score, what failed. Plain data, written so that a kill loses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from structdecode.core.border import plain, said
from structdecode.core.errors import ConfigError
from structdecode.core.events import trace_problem
from structdecode.core.images import Picture, load_picture
from structdecode.core.paths import write_atomically
from structdecode.core.reading import cut, parse_json, read_text
from structdecode.core.types import Candidate, Path, Score, Span

Observer = Callable[[Mapping[str, Any]], None]
"""Called with each event as it happens; see `Trace.events`."""

TokenTexts = Callable[[Sequence[int]], Sequence[str]]
"""The text of each token; joined they are the text of all."""


@dataclass(repr=False)
class Trace:
    """The events of one search, in order, as JSON-ready mappings with a ``kind``:

    ``candidate`` (path, stage, text, closed, finish_reason, tokens, log_prob, seed (none of text that was put in); ``lead``, the white space before
    the text, where an earlier span began the stage; ``token_texts`` and ``token_log_probs`` of all that was written, tags
    included, where ``token_texts`` says what tokens spell) ·
    ``score`` (verifier, paths, values, reasons, details, asked: how many different candidates the verifier saw,
    resolution: differences up to which count as ties) · ``failure`` (verifier, error) ·
    ``warning`` (text) · ``view`` (question, images: digests; what is searched under another prompt follows) ·
    ``keep`` (kept, pruned: paths) · ``result`` (ranking: paths, best first; answer; usage; stopped_by).

    An observer is also told what is kept in no trace: ``stage`` (stage, paths: of what is about to be written) and,
    where it has a true ``wants_tokens``, ``tokens`` (path, stage, text: just written, whole characters; ``again``: the
    model was changed, and the text begins anew).
    """

    header: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    observer: Observer | None = None
    token_texts: TokenTexts | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"<Trace {cut(str(self.header.get('question', '')), 60)!r}: {len(self.events)} events>"

    def _repr_html_(self) -> str:
        from structdecode.core.view import trace_fragment

        return trace_fragment(self)

    def add(self, kind: str, **content: Any) -> None:
        self.events.append({"kind": kind, **content})
        self._tell(self.events[-1])

    def tell(self, kind: str, **content: Any) -> None:
        """An event for the observer alone."""
        self._tell({"kind": kind, **content})

    def watching(self, path: Path, stage: str) -> Callable[[str | None], None] | None:
        """Tells the observer on this event loop, from any thread, what is written at a place; None where it does not want to know."""
        if self.observer is None or not getattr(self.observer, "wants_tokens", False):
            return None
        loop = asyncio.get_running_loop()

        def written(text: str | None) -> None:
            again = {"again": True} if text is None else {}
            event = partial(self.tell, "tokens", path=list(path), stage=stage, text=text or "", **again)
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                loop.call_soon_threadsafe(event)

        return written

    def _tell(self, event: dict[str, Any]) -> None:
        if self.observer is None:
            return
        try:
            self.observer(event)
        except Exception as error:  # an observer looks on: it ends no search
            self.observer = None
            self.events.append(
                {"kind": "warning", "text": f"the observer failed and is not called any more: {said(error)}"}
            )

    def add_candidate(self, candidate: Candidate) -> None:
        span = candidate.spans[-1]
        self.add(
            "candidate", path=list(candidate.path), stage=span.stage, text=span.text, closed=span.closed,
            finish_reason=span.finish_reason, tokens=len(span.token_ids), log_prob=plain(sum(span.log_probs)), seed=span.seed,
            **({"lead": span.lead} if candidate.goes_on else {}), **self._tokens_of(span),
        )  # fmt: skip

    def _tokens_of(self, span: Span) -> dict[str, Any]:
        if self.token_texts is None or len(span.log_probs) != len(span.token_ids):
            return {}
        rounded = [round(value, 4) for value in span.log_probs]
        return {"token_texts": list(self.token_texts(span.token_ids)), "token_log_probs": plain(rounded)}

    def add_scores(self, verifier: str, paths: list[Path], scores: list[Score], asked: int) -> None:
        self.add(
            "score", verifier=verifier, asked=asked, paths=[list(p) for p in paths], values=[s.value for s in scores],
            reasons=[s.reason for s in scores], details=[s.details for s in scores],
            resolution=max((s.resolution or 0.0 for s in scores), default=0.0),
        )  # fmt: skip

    @property
    def failures(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["kind"] == "failure"]

    @property
    def warnings(self) -> list[str]:
        """What is to be known of the answer beside what failed: that it is malformed, say."""
        return [str(event.get("text", "")) for event in self.events if event["kind"] == "warning"]

    def pictures(self, files: Sequence[FilePath], name: object) -> list[Picture]:
        """The pictures that the search was asked about, read from files: a trace named ``name`` has only their digests.

        Raises:
            ConfigError: they are not as many, or not these. ImageError: one cannot be read.
        """
        digests, found = list(self.header.get("images", ())), [load_picture(file) for file in files]
        if len(found) != len(digests):
            raise ConfigError(
                f"{name}: a trace has no pictures in it: give the {len(digests)} it was made with, in order, by --image"
            )
        strange = next(
            (f for f, picture, digest in zip(files, found, digests, strict=True) if picture.digest != digest), None
        )
        if strange is not None:
            raise ConfigError(f"{name}: {strange} is not the picture that this trace was made with")
        return found

    def as_dict(self) -> dict[str, Any]:
        return {"format": "structdecode-trace/1", **self.header, "events": self.events}

    def save(self, path: str | FilePath) -> None:
        """Writes JSON whole or not at all: a kill leaves the old file or the new one."""
        write_atomically(
            FilePath(path), json.dumps(plain(self.as_dict()), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        )

    @classmethod
    def load(cls, path: str | FilePath) -> Trace:
        """Reads a saved trace.

        Raises:
            ConfigError: the file is not there, is not a trace, or is damaged.
        """
        try:
            data = parse_json(read_text(path))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not a trace: {error}") from None
        if not isinstance(data, dict) or data.get("format") != "structdecode-trace/1":
            raise ConfigError(f'{path}: not a trace: no "format": "structdecode-trace/1"')
        problem = trace_problem(data)
        if problem is not None:
            raise ConfigError(f"{path}: damaged: {problem}: write it again with `generate --trace`")
        data.pop("format")
        return cls(events=data.pop("events"), header=data)
