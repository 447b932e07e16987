"""What comes of a search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from structdecode.budget import Meter, Usage
from structdecode.trace import Trace
from structdecode.types import Candidate, Path, Ranked, Schema


@dataclass(frozen=True)
class Result:
    """What a search found and what it cost.

    Attributes:
        answer: the visible stages' text of the best candidate; empty where none got that far.
        best: the best candidate, None if not one span was written.
        candidates: all that the strategy ranked, best first; equal ones stand once, with the paths of all.
        usage: everything together; ``usage_by_part`` the generator's and the verifier's shares.
        stopped_by: the limit that ended the search, None if it ended by itself.
        error: why the prompt could not be asked at all (`decode_many`); empty where it was.
    """

    answer: str
    best: Candidate | None
    candidates: tuple[Ranked, ...]
    usage: Usage
    usage_by_part: dict[str, Usage]
    trace: Trace = field(repr=False)
    stopped_by: str | None
    seed: int
    error: str = ""

    @property
    def stages(self) -> dict[str, str]:
        return dict(self.best.stages) if self.best else {}

    @property
    def warnings(self) -> list[str]:
        """What is to be known of the answer beside what failed: that it is malformed, say."""
        return [event["text"] for event in self.trace.events if event["kind"] == "warning"]

    @property
    def draws(self) -> list[tuple[Path, Ranked]]:
        """Each draw's path with what it came to, best first: `candidates` with equal ones as often as they were drawn."""
        return [(path, ranked) for ranked in self.candidates for path in ranked.paths]


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


def result_of(ranked: list[Ranked], schema: Schema, meter: Meter, trace: Trace, seed: int) -> Result:
    best = ranked[0].candidate if ranked and ranked[0].candidate.spans else None
    usage, parts = meter.usage, {str(part): used for part, used in meter.parts.items()}
    result = Result(
        answer=best.answer(schema) if best else "", best=best, candidates=tuple(ranked), usage=usage,
        usage_by_part=parts, trace=trace, stopped_by=meter.stopped_by, seed=seed,
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
