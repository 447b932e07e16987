"""``structdecode verifier``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Run = Annotated[Path, typer.Argument(help="A run of `compare` with the verifier's scores, finished or not.")]


def fit(
    run: Run,
    verifier: Annotated[
        str, typer.Option(help="Whose scores: its name, or as tables show it: 'ensemble(a=log-prob, b=p-true)'.")
    ],
    out: Annotated[Path, typer.Option(help="The file to write, which verifier `calibrated` takes as `fit`.")],
    method: Annotated[
        Literal["isotonic", "platt"], typer.Option(help="Any rising steps, or a logistic curve (for few answers).")
    ] = "isotonic",
    by_stage: Annotated[bool, typer.Option("--by-stage", help="A map for each stage that has scores.")] = False,
    cell: Annotated[
        str | None, typer.Option(help="Whose candidates; default: the cell with the most independent answers.")
    ] = None,
) -> None:
    """Turn a verifier's scores into probabilities of a right final answer, fitted on a run whose answers are known.

    Says how good these are on questions that they were not fitted on (cross-validated by picture and question): Brier score, log-loss
    and expected calibration error, before and after. Nothing is generated.

    Examples:
    `structdecode verifier fit runs/compared --verifier p-true --out p-true.json`

    `structdecode verifier fit runs/trees --verifier reward-model --by-stage --method platt --out reward.json`

    `structdecode compare --data pocket:validation --strategy best-of-n --verifier "{calibrated: {verifier: p-true, fit: p-true.json}}" --out runs/calibrated`
    """
    from structdecode.core.paths import check_writable
    from structdecode.evaluation import calibration
    from structdecode.evaluation.report.calibration import markdown
    from structdecode.evaluation.report.results import Results
    from structdecode.records.store import read_run

    check_writable(out)
    found = calibration.fit(Results(read_run(run)), verifier, method=method, by_stage=by_stage, cell=cell)
    found.save(out)
    print(markdown(found))
    print(f"\nWrote {out}")


def audit(
    run: Run,
    out: Annotated[Path, typer.Option(help="Folder for audit.html and audit.json.")],
    verifier: Annotated[
        list[str] | None, typer.Option(help="One that is looked at; several times for several; default: all.")
    ] = None,
) -> None:
    """Say what the verifiers of a run are worth: better, worse or INCONCLUSIVE against voting, and why.

    AUC within a question by stage, calibration, ties, failures, label mass, length bias, cost for each point gained, and, with several
    seeds, where the spread comes from. One page that loads nothing, and the figures as JSON. Nothing is generated.

    Examples:
    `structdecode verifier audit runs/compared --out audits/compared`

    `structdecode verifier audit runs/compared --verifier p-true --verifier self-judge --out audits/two`
    """
    from structdecode.core.errors import ConfigError
    from structdecode.evaluation.report.audit import Audit, write
    from structdecode.evaluation.report.results import Results
    from structdecode.records.store import read_run

    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is a file: --out takes a folder")
    found = Audit(Results(read_run(run)), verifier or ())
    page = write(found, out)
    for verdict in found.verdicts:
        print(verdict)
    print(f"Wrote {page}")
