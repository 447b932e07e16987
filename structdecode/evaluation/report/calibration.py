"""What `structdecode verifier fit` shows of a calibration."""

from __future__ import annotations

from typing import Any

from structdecode.core.calibration import ANY_STAGE, Calibration, Quality
from structdecode.evaluation.report.section import Column, Paragraph, Table


def markdown(found: Calibration) -> str:
    """Words and two tables."""
    of = found.fitted_on
    words = (
        f"{found.verifier.name} in {of['cell']} of {of['run']}, {found.method}. Cross-validated: each candidate's probability is from "
        "a map that was fitted without its cluster of questions. 'Raw' are the scores as they are, where they are probabilities; "
        "'share' gives every candidate the share of right ones."
    )
    measured = Table("measured", MEASURED, tuple(row for stage in found.maps for row in _rows(found, stage)))
    scores = Table(
        "scores",
        SCORES,
        tuple({"stage": stage, **vars(spread), "cut": spread.cut_off()} for stage, spread in found.scores.items()),
    )
    about = Paragraph(
        "The raw scores. Below mean + 0.2533 sigma lie 60 % of a normal distribution (the cut-off of SWIRES, arXiv 2411.10440)."
    )
    return "\n\n".join(block.markdown() for block in (Paragraph(words), measured, about, scores))


MEASURED = (
    Column("stage", "stage", text=True), Column("what", "probabilities", text=True), Column("brier", "Brier", lambda v: f"{v:.4f}"),
    Column("log_loss", "log-loss", lambda v: f"{v:.4f}"), Column("ece", "ECE", lambda v: f"{v:.4f}"),
    Column("gain", "Brier gained (95 % interval)"), Column("candidates", "candidates"), Column("questions", "questions"),
)  # fmt: skip
SCORES = (
    Column("stage", "stage", text=True), Column("n", "scores"), Column("mean", "mean", lambda v: f"{v:.4g}"),
    Column("sigma", "sigma", lambda v: f"{v:.4g}"), Column("cut", "mean + 0.2533 sigma", lambda v: f"{v:.4g}"),
)  # fmt: skip


def _rows(found: Calibration, stage: str) -> list[dict[str, Any]]:
    measured = found.measured[stage]
    kinds: dict[str, Quality | None] = {
        "raw": measured.raw, "share": measured.base, "calibrated": measured.calibrated
    }  # fmt: skip
    known = "" if measured.low is None else f" ({measured.low:+.4f} to {measured.high:+.4f})"
    return [
        {
            "stage": "all" if stage == ANY_STAGE else stage, "what": what, **vars(quality),
            "gain": f"{measured.gain:+.4f}{known}" if quality is measured.calibrated else "-",
            "candidates": measured.candidates, "questions": measured.questions,
        }
        for what, quality in kinds.items()
        if quality is not None
    ]  # fmt: skip
