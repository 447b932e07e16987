"""What comes of a search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from structdecode.core.budget import Meter, Usage
from structdecode.core.errors import MissingExtraError
from structdecode.core.reading import cut
from structdecode.core.trace import Trace
from structdecode.core.types import Candidate, Path, Prompt, Ranked, Schema

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, repr=False)
class Result:
    """What a search found and what it cost.

    Attributes:
        answer: the visible stages' text of the best candidate; empty where none got that far.
        best: the best candidate, None if not one span was written.
        candidates: all that the strategy ranked, best first; equal ones stand once, with the paths of all.
        usage: everything together; ``usage_by_part`` the generator's and the verifier's shares.
        own_models: of the verifier's share, the work of verifiers' own models that said its FLOPs.
        stopped_by: the limit that ended the search, None if it ended by itself.
        error: why the prompt could not be asked at all (`decode_many`); empty where it was.
        schema: the stages that were asked for; None where the prompt could not be asked.
        thumbnails: small PNGs of the prompt's pictures. The pictures themselves are not held.
    """

    answer: str
    best: Candidate | None
    candidates: tuple[Ranked, ...]
    usage: Usage
    usage_by_part: dict[str, Usage]
    trace: Trace
    stopped_by: str | None
    seed: int
    error: str = ""
    schema: Schema | None = None
    thumbnails: tuple[bytes, ...] = field(default=(), compare=False)
    own_models: Usage = field(default_factory=Usage)

    def __repr__(self) -> str:
        count = len(self.candidates)
        facts = [
            f"{count} candidate{'s' * (count != 1)}",
            f"{self.usage.generated_tokens:,} tokens",
            f"seed {self.seed}",
        ]
        facts += [f"${self.usage.dollars:,.4g}"] if self.usage.dollars else []
        facts += [f"stopped by {self.stopped_by}"] if self.stopped_by else []
        facts += [f"not asked: {cut(self.error, 80)!r}"] if self.error else []
        return f"<Result {cut(self.answer, 60)!r}: {', '.join(facts)}>"

    def _repr_html_(self) -> str:
        from structdecode.core.view import result_fragment

        return result_fragment(self)

    @property
    def stages(self) -> dict[str, str]:
        return dict(self.best.stages) if self.best else {}

    @property
    def warnings(self) -> list[str]:
        """What is to be known of the answer beside what failed: that it is malformed, say."""
        return self.trace.warnings

    @property
    def draws(self) -> list[tuple[Path, Ranked]]:
        """Each draw's path with what it came to, best first: `candidates` with equal ones as often as they were drawn."""
        return [(path, ranked) for ranked in self.candidates for path in ranked.paths]

    def to_pandas(self) -> DataFrame:
        """A row for each of `candidates`, best first.

        Columns: ``path``, ``text`` (with its tags), ``answer``, ``score`` (NaN where there is none), ``tokens``,
        ``log_prob`` (of all tokens that were written), ``finish_reasons`` (one for each span), ``draws``; and of the whole
        search, in each row, the costs of `Usage.outside` (``dollars``, ``api_calls``, ``flops``) where there are any.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("pandas", "eval") from None
        table = pandas.DataFrame([_row(ranked, self.schema) for ranked in self.candidates], columns=_COLUMNS)
        return table.assign(**self.usage.outside)


_COLUMNS = ["path", "text", "answer", "score", "tokens", "log_prob", "finish_reasons", "draws"]


def _row(ranked: Ranked, schema: Schema | None) -> tuple[object, ...]:
    candidate, value = ranked.candidate, ranked.score.value
    return (
        candidate.path, candidate.text, candidate.answer(schema) if schema else "", float("nan") if value is None else value,
        candidate.tokens, candidate.log_prob, tuple(span.finish_reason for span in candidate.spans), ranked.draws,
    )  # fmt: skip


def _malformed(best: Candidate, schema: Schema) -> Iterator[str]:
    """What is wrong with the stages of an answer, in words."""
    wrong = {span.stage for span in best.spans if span.finish_reason == "invalid"}
    begun = {
        stage.name for stage in schema.stages if any(stage.begin in s.raw for s in best.spans if s.stage == stage.name)
    }
    unopened = [stage for stage in schema.stages if stage.name in wrong - begun]
    if unopened:
        yield (
            f"the model never opened {', '.join(stage.begin for stage in unopened)}: what it wrote instead stands for "
            "these stages (a schema with force_begin opens them for it)"
        )
    others = [stage.name for stage in schema.stages if stage.name in wrong & begun]
    if others:
        yield f"malformed: {', '.join(others)}: a tag is missing or repeated, or another stage stands inside"


def result_of(ranked: list[Ranked], prompt: Prompt, schema: Schema, meter: Meter, trace: Trace, seed: int) -> Result:
    best = ranked[0].candidate if ranked and ranked[0].candidate.spans else None
    usage, parts = meter.usage, {str(part): used for part, used in meter.parts.items()}
    result = Result(
        answer=best.answer(schema) if best else "", best=best, candidates=tuple(ranked), usage=usage,
        usage_by_part=parts, trace=trace, stopped_by=meter.stopped_by, seed=seed, schema=schema,
        thumbnails=tuple(picture.thumbnail for picture in prompt.images), own_models=meter.own_models,
    )  # fmt: skip
    for text in _malformed(best, schema) if best else ():
        trace.add("warning", text=text)
    trace.add(
        "result", ranking=[list(r.candidate.path) for r in ranked], answer=result.answer,
        usage=usage.as_dict(), usage_by_part={part: used.as_dict() for part, used in parts.items()},
        stopped_by=result.stopped_by,
    )  # fmt: skip
    return result


def unasked(prompt: object, sample_id: str, seed: int, error: str) -> Result:
    trace = Trace({"question": getattr(prompt, "question", ""), "seed": seed, "sample_id": sample_id})
    trace.add("warning", text=f"not asked: {error}")
    nothing = {"generator": Usage(), "verifier": Usage()}
    return Result("", None, (), Usage(), nothing, trace, None, seed, error)
