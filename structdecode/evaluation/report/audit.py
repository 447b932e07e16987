"""What a verifier is worth: ``structdecode verifier audit``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from structdecode.core.errors import ConfigError, UnknownNameError
from structdecode.core.paths import write_atomically
from structdecode.core.types import Score
from structdecode.evaluation import calibration, statistics, within
from structdecode.evaluation.calibration import Labels
from structdecode.evaluation.components import components
from structdecode.evaluation.labelled import LabelledCandidate, LabelledScores, labelled_scores
from structdecode.evaluation.report import figures, page
from structdecode.evaluation.report.results import CellResult, Results
from structdecode.evaluation.report.section import (
    Block,
    BulletList,
    Column,
    Figure,
    Paragraph,
    Section,
    Table,
    amount,
    interval,
    p_value,
    percent,
    points,
    share,
    text,
)
from structdecode.evaluation.report.selection import pool_of
from structdecode.evaluation.report.verifiers import ENOUGH
from structdecode.evaluation.soundness import first_failure
from structdecode.evaluation.statistics import Comparison, Estimate
from structdecode.evaluation.within import Discrimination
from structdecode.selection.curves import expected
from structdecode.selection.selectors import Best, Majority

FORMAT = "structdecode-verifier-audit/1"
RANDOM = "a random pick"
MAJORITY = "majority voting"
BY_QUANTILE = 10
"""Points of a reliability diagram, with as many answers each."""


@dataclass(frozen=True)
class Audit:
    """The verifiers of a run.

    Attributes:
        names: of those that are looked at, labels or registered names; none: all.

    Raises:
        ConfigError: a name is not known, or the run has no scores.
    """

    results: Results
    names: Sequence[str] = ()

    @cached_property
    def audited(self) -> list[LabelledScores]:
        every = labelled_scores(self.results)
        known = sorted({scores.verifier for scores in every})
        if not known:
            raise ConfigError(f"{self.results.run.directory}: no verifier scored anything in it")
        unknown = next((name for name in self.names if not any(scores.named(name) for scores in every)), None)
        if unknown is not None:
            raise UnknownNameError(f"verifier of {self.results.run.directory}", unknown, known)
        return [scores for scores in every if not self.names or any(map(scores.named, self.names))]

    @cached_property
    def chosen(self) -> dict[str, dict[str, dict[str, float]]]:
        """By cell and by way of choosing among its answers (`RANDOM`, `MAJORITY`, else the verifier), by question how often it is right."""
        return {scores.cell.name: self._choices(scores.cell) for scores in self.audited}

    def _choices(self, cell: CellResult) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, list[float]]] = {}
        for record in cell.records:
            samples, right = pool_of(record, self.results.resolution)
            blind = sum(right) / len(right) if right else 0.0
            values = {RANDOM: blind, cell.name: float(record.correct)}
            if cell.independent and samples:
                scored = any(sample.score.scored for sample in samples)
                votes = [replace(sample, score=Score(None)) for sample in samples]
                values[cell.name] = expected(Best(), samples, right, len(samples)).value if scored else blind
                values[MAJORITY] = expected(Majority(), votes, right, len(votes)).value
            for name, value in values.items():
                found.setdefault(name, {}).setdefault(record.id, []).append(value)
        return {name: {i: sum(v) / len(v) for i, v in by_id.items()} for name, by_id in found.items()}

    @cached_property
    def comparisons(self) -> dict[tuple[str, str], Comparison]:
        """Of each cell's verifier with each other way of choosing among the same answers, corrected together (Holm)."""
        values = {f"{cell}\n{name}": by_id for cell, found in self.chosen.items() for name, by_id in found.items()}
        keys = [(cell, name) for cell, found in self.chosen.items() for name in (MAJORITY, RANDOM) if name in found]
        pairs = [(f"{cell}\n{cell}", f"{cell}\n{name}") for cell, name in keys]
        return dict(zip(keys, statistics.compare(pairs, values, self.results.clusters), strict=True))

    def discrimination(self, candidates: Sequence[LabelledCandidate]) -> Discrimination:
        by_question: dict[tuple[str, int], list[LabelledCandidate]] = {}
        for c in candidates:
            if c.score is not None and c.right is not None:
                by_question.setdefault((c.question, c.seed), []).append(c)
        questions = [([c.score or 0.0 for c in of], [c.right or 0.0 for c in of]) for of in by_question.values()]
        clusters = [of[0].cluster for of in by_question.values()]
        return within.discrimination(questions, clusters, resolution=self.results.resolution)

    @cached_property
    def whole(self) -> dict[tuple[str, str], Discrimination]:
        """Of whole answers, by verifier and cell."""
        return {_key(scores): self.discrimination(scores.finished) for scores in self.audited}

    @cached_property
    def verdicts(self) -> list[str]:
        """One sentence or two for each verifier and cell."""
        return [self._verdict(scores) for scores in self.audited]

    def _verdict(self, scores: LabelledScores) -> str:
        name = scores.cell.name
        said = [_against(other, c) for (cell, other), c in self.comparisons.items() if cell == name]
        auc = self.whole[_key(scores)].auc
        if math.isnan(auc.value):
            told = "no question has a right and a wrong answer with scores, so it cannot be told whether it tells them apart"
        else:
            expect = (
                f"below {ENOUGH:.2f}: no gain over voting is to be expected"
                if auc.value < ENOUGH
                else f"at least {ENOUGH:.2f}: a gain over voting may be had"
            )
            told = f"AUC within a question {auc.value:.3f}, {expect}"
        failed = f". No evidence: {scores.cell.broken}" if scores.cell.broken else ""
        return f"{scores.verifier} in {name}: {'; '.join([*said, told])}{failed}."


def _key(scores: LabelledScores) -> tuple[str, str]:
    return scores.verifier, scores.cell.name


def judgement(comparison: Comparison) -> str:
    """``better``, ``worse``, or that it cannot be told."""
    if not comparison.shown:
        return "INCONCLUSIVE"
    return "better" if comparison.difference.value > 0 else "worse"


def _against(other: str, comparison: Comparison) -> str:
    gap, found = comparison.difference, judgement(comparison)
    size = f"{100 * gap.value:+.1f} points, 95% CI {interval(gap)}, {gap.n} questions"
    if comparison.shown:
        p = statistics.p_text(comparison.p_holm)
        return f"{found} than {other} ({size}, p {p}{', Holm-corrected' if comparison.family > 1 else ''})"
    needed = statistics.questions_to_settle(comparison)
    settle = (
        f"if this is the true difference, about {needed:,} questions would settle it"
        if needed is not None
        else "they differ on too few questions to say how many would settle it"
    )
    return f"{found} against {other} ({size}; {settle})"


# ------------------------------------------------------------------ sections


def sections(audit: Audit) -> list[Section]:
    made = (
        gains(audit), stages(audit), reliability(audit), failures(audit), lengths(audit), cost(audit), variance(audit)
    )  # fmt: skip
    return [section for section in made if section is not None]


_WHO = (Column("verifier", "verifier", text=True), Column("cell", "in cell", text=True))


def _who(scores: LabelledScores) -> dict[str, Any]:
    return {"verifier": scores.verifier, "cell": scores.cell.name}


def gains(audit: Audit) -> Section:
    rows = []
    for scores in audit.audited:
        for (cell, other), found in audit.comparisons.items():
            if cell == scores.cell.name:
                values = audit.chosen[cell]
                rows.append({
                    **_who(scores), "accuracy": _mean(audit, values[cell]), "other": other, "theirs": _mean(audit, values[other]),
                    "difference": found.difference, "p": found.p_holm, "judgement": judgement(found),
                    "settle": statistics.questions_to_settle(found),
                })  # fmt: skip
    words = (
        "The answer that the verifier scores best (of independent answers none of which has a score, any), against other ways to choose "
        "among the same answers: at random, and by the most frequent one. A search by stages is held against a pick among what it finished. Paired by question, exact sign-flip test of whole clusters, Holm-corrected over this table. What is not "
        "shown is INCONCLUSIVE; the last column says with how many questions a true difference of that size would be shown with 80 % power."
    )
    columns = (
        *_WHO, Column("accuracy", "accuracy, %", percent), Column("other", "against", text=True), Column("theirs", "its accuracy, %", percent),
        Column("difference", "gain, points", points), Column("difference", "95 % interval", interval), Column("p", "p (Holm)", p_value),
        Column("judgement", "verdict", text=True), Column("settle", "questions that would settle it", lambda n: "-" if n is None else f"{n:,}"),
    )  # fmt: skip
    verdicts = BulletList(tuple(audit.verdicts))
    return Section("gains", "Better than voting?", (verdicts, Paragraph(words), Table("gains", columns, tuple(rows))))


def _mean(audit: Audit, by_id: Mapping[str, float]) -> Estimate:
    return statistics.mean(list(by_id.values()), [audit.results.clusters.get(i, i) for i in by_id])


def stages(audit: Audit) -> Section:
    rows = []
    for scores in audit.audited:
        for stage, candidates in scores.by_stage.items():
            found = audit.discrimination(candidates)
            known = [c.right for c in candidates if c.right is not None]
            rows.append({
                **_who(scores), "stage": stage, "auc": found.auc, "pairs": found.pairs, "questions": found.auc.n, "ties": found.ties,
                "candidates": len(candidates), "unlabelled": len(candidates) - len(known),
                "right": sum(known) / len(known) if known else math.nan, "inferred": any(c.inferred for c in candidates),
            })  # fmt: skip
    words = (
        "AUC within a question: how often a candidate with a right final answer is scored above one with a wrong one, ties as half; "
        "0.5 is chance. A stage's candidate counts by the share of the finished answers below it that are right; one that was dropped "
        "has none and is left out (unlabelled). Under "
        f"{ENOUGH:.2f} no gain over voting is to be expected (CASE, arXiv 2608.17124). The interval is by the bootstrap over clusters "
        "of questions. Scores of a stage may be those that a search asked for, or what the verifier says of each stage beside its score "
        "of the whole (details)."
    )
    columns = (
        *_WHO, Column("stage", "stage", text=True), Column("auc", "AUC", share),
        Column("auc", "95 % interval", _interval), Column("ties", "pairs that tie, %", _percent), Column("pairs", "pairs", amount),
        Column("questions", "questions"), Column("right", "right, %", _percent), Column("candidates", "candidates"),
        Column("unlabelled", "unlabelled"), Column("inferred", "from details", lambda v: "yes" if v else ""),
    )  # fmt: skip
    return Section(
        "stages", "Right above wrong, by stage", (Paragraph(words), Table("auc", columns, tuple(rows), filtered=True))
    )


def reliability(audit: Audit) -> Section:
    drawn: list[tuple[str, Labels, np.ndarray[Any, Any]]] = []
    rows, left_out = [], []
    for scores in audit.audited:
        labels = Labels.of(scores.finished)
        if labels.known:
            left_out.append(f"{scores.verifier} in {scores.cell.name}: {labels.known}")
            continue
        found = calibration.measured(labels, "isotonic")
        drawn.append((f"{scores.verifier}, {scores.cell.name}", labels, calibration.out_of_fold(labels, "isotonic")[0]))
        rows.append({
            **_who(scores), "candidates": found.candidates, "questions": found.questions, "raw": found.raw and found.raw.brier,
            "base": found.base.brier, "calibrated": found.calibrated.brier, "raw_ece": found.raw and found.raw.ece,
            "ece": found.calibrated.ece, "gain": found.gain, "low": found.low, "high": found.high,
        })  # fmt: skip
    words = (
        "Whole answers: the scores as they are, where all lie between 0 and 1, and as probabilities of a right answer by isotonic "
        "regression, each answer by a map that was fitted without its cluster of questions (`structdecode verifier fit`). The Brier score "
        "is the mean squared error, beside that of giving every answer the share of right ones; ECE is the expected calibration error "
        f"over {calibration.BINS} bins."
    )
    columns = (
        *_WHO, Column("candidates", "answers"), Column("questions", "questions"), Column("raw", "Brier, raw", _figure),
        Column("base", "Brier, share of right", _figure), Column("calibrated", "Brier, calibrated", _figure),
        Column("gain", "gain of calibration", _figure), Column("low", "from", _figure), Column("high", "to", _figure),
        Column("raw_ece", "ECE, raw", _figure), Column("ece", "ECE, calibrated", _figure),
    )  # fmt: skip
    blocks: list[Block] = [Paragraph(words)]
    if drawn:
        caption = f"Share of right answers by score, {BY_QUANTILE} groups with as many answers each; on the line what is said is so."
        blocks += [Figure("reliability", diagram(drawn), caption), Table("calibration", columns, tuple(rows))]
    if left_out:
        blocks.append(BulletList(tuple(left_out), folded="Nothing to calibrate"))
    return Section("calibration", "Do scores mean what they say?", tuple(blocks))


def diagram(drawn: Sequence[tuple[str, Labels, np.ndarray[Any, Any]]]) -> str:
    """A panel for each verifier."""
    down = -(-len(drawn) // 2)
    with figures.drawing("reliability", 9.2, 3.6 * down + 0.6, across=2, down=down) as (figure, axes, out):
        flat = [ax for row in axes for ax in row]
        handles: dict[str, Any] = {}
        for ax, (name, labels, calibrated) in zip(flat, drawn, strict=False):
            ax.plot([0, 1], [0, 1], color=figures.FAINT, linewidth=1)
            given = {"calibrated, out of fold": calibrated}
            if labels.scores.min() >= 0 and labels.scores.max() <= 1:
                given = {"raw scores": labels.scores, **given}
            for kind, values in given.items():
                at = list(given).index(kind) + (2 - len(given))
                x, y = zip(*_groups(values, labels.right), strict=True)
                style = {
                    "color": figures.COLOURS[at],
                    "marker": figures.MARKERS[at],
                    "markersize": 4.5,
                    "linewidth": 1.2,
                }
                handles[kind] = ax.plot(x, y, **style)[0]
            ax.set_title(figures.short(name), fontsize=9)
            ax.set_xlim(-0.02, 1.02)
            ax.set_ylim(-0.02, 1.02)
            ax.set_xlabel("said")
            ax.set_ylabel("right")
        for ax in flat[len(drawn) :]:
            ax.set_axis_off()
        figures.legend_below(figure, list(handles.values()), list(handles))
    return out[0]


def _groups(values: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> Iterator[tuple[float, float]]:
    order = np.argsort(values, kind="stable")
    for part in np.array_split(order, min(BY_QUANTILE, len(order))):
        yield float(values[part].mean()), float(right[part].mean())


def failures(audit: Audit) -> Section:
    rows = []
    for scores in audit.audited:
        asked = [c for c in scores.candidates if not c.inferred]
        without = [c for c in asked if c.score is None]
        records = scores.cell.records
        masses = [mass for c in asked for mass in _found(c.details, "label_mass")]
        orders = [value for c in asked for value in _found(c.details, "swap_consistency")]
        unread = [c for c in asked if "unparseable" in c.details]
        rows.append({
            **_who(scores), "candidates": len(asked), "unscored": len(without) / len(asked) if asked else math.nan,
            "failed_on": sum(bool(r.failures) for r in records) / len(records),
            "why": first_failure(records) or next((c.reason for c in without if c.reason), ""),
            "unparseable": sum(c.details["unparseable"] > 0 for c in unread) / len(unread) if unread else None,
            "mass": sum(masses) / len(masses) if masses else None, "low_mass": float(np.quantile(masses, 0.05)) if masses else None,
            "swap": sum(orders) / len(orders) if orders else None,
        })  # fmt: skip
    words = (
        "Unscored candidates have no score, for whatever reason; a verifier that leaves more than 5 % is no evidence in a comparison's "
        "report. Failed on: the share of questions where a call raised or gave something else than scores. Unreadable: candidates of which "
        "at least one verdict could not be read. Label mass: how much of the probability lies on the answers that were asked for (mean, and "
        "below what 5 % are). Both orders agree: the share of comparisons with the same winner when the two change places."
    )
    columns = (
        *_WHO, Column("candidates", "candidates"), Column("unscored", "unscored, %", _percent), Column("failed_on", "failed on, %", _percent),
        Column("unparseable", "unreadable, %", _percent), Column("mass", "label mass", _figure), Column("low_mass", "5 % below", _figure),
        Column("swap", "both orders agree, %", _percent), Column("why", "first error", text, text=True),
    )  # fmt: skip
    return Section("failures", "What could not be scored", (Paragraph(words), Table("failures", columns, tuple(rows))))


def _found(details: Mapping[str, Any], key: str) -> list[float]:
    """Figures of that name, those of a rubric's questions or an ensemble's members too."""
    own = [float(details[key])] if isinstance(details.get(key), int | float) else []
    return own + [f for value in details.values() if isinstance(value, Mapping) for f in _found(value, key)]


def lengths(audit: Audit) -> Section:
    rows, without = [], []
    for scores in audit.audited:
        known = [c for c in scores.finished if c.score is not None and c.tokens is not None]
        if not known:
            without.append(f"{scores.verifier} in {scores.cell.name}: no trace says how long its answers are")
            continue
        tokens = [float(c.tokens or 0) for c in known]
        questions, clusters = [f"{c.question} {c.seed}" for c in known], [c.cluster for c in known]
        by_score = within.correlation([c.score or 0.0 for c in known], tokens, questions, clusters)
        by_right = within.correlation([c.right or 0.0 for c in known], tokens, questions, clusters)
        rows.append({**_who(scores), "score": by_score, "right": by_right, "answers": len(known)})
    words = (
        "Pearson's correlation with the number of tokens, within questions: of the score, and of being right. A verifier that likes "
        "length more than length is right is biased."
    )
    columns = (
        *_WHO, Column("score", "score and length", share), Column("score", "95 % interval", _interval),
        Column("right", "right and length", share), Column("right", "95 % interval", _interval), Column("answers", "answers"),
    )  # fmt: skip
    blocks: list[Block] = [Paragraph(words)]
    if rows:
        blocks.append(Table("lengths", columns, tuple(rows)))
    if without:
        blocks.append(BulletList(tuple(without)))
    return Section("lengths", "Long answers", tuple(blocks))


def cost(audit: Audit) -> Section:
    rows = []
    for scores in audit.audited:
        cell = scores.cell
        tokens = cell.cost("tokens", "verifier").value
        gained = {
            other: 100 * c.difference.value for (name, other), c in audit.comparisons.items() if name == cell.name
        }
        seconds = sum(record.verifier_seconds for record in cell.records) / len(cell.records)
        rows.append({
            **_who(scores), "tokens": tokens, "generated": cell.used("verifier", "generated_tokens").value,
            "calls": cell.cost("verifier_calls").value, "flops": cell.cost("flops", "verifier").value, "seconds": seconds or math.nan,
            "over_random": _per_point(tokens, gained.get(RANDOM)), "over_majority": _per_point(tokens, gained.get(MAJORITY)),
        })  # fmt: skip
    words = (
        "What the verifier computed, a question: tokens generated and prefilled, and the seconds in which it had work under way while "
        "other questions were open (of one machine; a replay's own where the run was replayed). The last columns: tokens for each point of "
        "accuracy gained, where there is a gain."
    )
    columns = (
        *_WHO, Column("tokens", "tokens", amount), Column("generated", "of these generated", amount), Column("calls", "candidates scored", amount),
        Column("flops", "FLOPs", amount), Column("seconds", "seconds", amount), Column("over_random", f"a point over {RANDOM}", amount),
        Column("over_majority", f"a point over {MAJORITY}", amount),
    )  # fmt: skip
    return Section("cost", "What it costs", (Paragraph(words), Table("cost", columns, tuple(rows))))


def _per_point(tokens: float, gained: float | None) -> float:
    return tokens / gained if gained is not None and gained > 0 else math.nan


def variance(audit: Audit) -> Section | None:
    """None where the run has one seed."""
    rows = []
    for scores in audit.audited:
        records = scores.cell.records
        if len(scores.cell.seeds) < 2:
            continue
        found = components([float(r.correct) for r in records], [r.id for r in records], scores.cell.keys)
        if found is not None:
            rows.append({
                **_who(scores), "seeds": len(scores.cell.seeds), "picture": found.picture, "question": found.question, "seed": found.seed,
                "from_seeds": found.from_seeds,
            })  # fmt: skip
    if not rows:
        return None
    words = (
        "Variance of one chosen answer (right or wrong), split by nested components: between pictures (clusters of questions), between "
        "questions about one picture, and between seeds of one question; method of moments. Where each question has a picture of its own "
        "the first two are one. The last column: how much of the variance of the accuracy more seeds could take away; the rest takes more questions."
    )
    columns = (
        *_WHO, Column("seeds", "seeds"), Column("picture", "pictures", _figure), Column("question", "questions", _figure),
        Column("seed", "seeds of a question", _figure), Column("from_seeds", "of the accuracy's, by seeds, %", _percent),
    )  # fmt: skip
    return Section(
        "variance", "Where the spread comes from", (Paragraph(words), Table("variance", columns, tuple(rows)))
    )


def _interval(value: Estimate) -> str:
    return "-" if math.isnan(value.low) else f"{value.low:.3f} to {value.high:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"


def _figure(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4f}"


def write(audit: Audit, out: Path) -> Path:
    """Writes ``audit.html`` and ``audit.json`` into a folder; returns the page.

    Raises:
        ConfigError: as `Audit`. MissingExtraError: matplotlib, scipy or scikit-learn is not installed.
    """
    made = sections(audit)
    out.mkdir(parents=True, exist_ok=True)
    run = audit.results.run.directory.resolve().name
    content = {
        "format": FORMAT, "run": run, "verdicts": audit.verdicts, **{section.id: section.tables for section in made}
    }  # fmt: skip
    write_atomically(out / "audit.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    lead = ["Nothing was generated for this page: it is made from the records of the run alone."]
    write_atomically(out / "audit.html", page.html(f"Verifiers of {run}", lead, made))
    return out / "audit.html"
