"""What was run, on what, by which versions, and how to run it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from structdecode.evaluation.report.results import Results
from structdecode.evaluation.report.section import Block, Column, Paragraph, Preformatted, Section, Table, plain


def section(results: Results) -> Section:
    study = results.run.study
    config = _flat({key: value for key, value in study["config"].items() if key != "cells"})
    first = _flat({key: value for key, value in study.items() if key not in ("config", "accepted_code")})
    columns = (Column("what", "what", text=True), Column("value", "value", text=True))
    cells = json.dumps(plain(study["config"]["cells"]), indent=1, ensure_ascii=False)
    blocks: list[Block] = [
        Paragraph(
            "To repeat it: install these versions and run `structdecode compare` with the same study file (or options), "
            "data and seed. On a CPU in float32 all figures of tables.json come out the same, at any batch size and "
            "number of threads; on a GPU or in lower precision nearly so. `structdecode report` writes this report "
            "again from the run directory alone."
        ),
        Table("config", columns, tuple({"what": key, "value": value} for key, value in config)),
        Paragraph("Where and when it was started first; sessions.jsonl has each time it was resumed."),
        Table("first_session", columns, tuple({"what": key, "value": value} for key, value in first), repeatable=False),
        Preformatted(
            "All cells with all their settings",
            cells,
            "All cells with all their settings are in `study.json`, under `config.cells`.",
        ),
    ]
    accepted = tuple({"changed": change} for entry in study.get("accepted_code", ()) for change in entry["changed"])
    if accepted:
        code = Paragraph(
            "The code changed while this run was made, and that was accepted: results are of the code before and after."
        )
        blocks = [code, Table("accepted_code", (Column("changed", "what changed", text=True),), accepted), *blocks]
    return Section("provenance", "What was run, and how to repeat it", tuple(blocks))


def _flat(content: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted keys; anything else as JSON."""
    found: list[tuple[str, str]] = []
    for key, value in content.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            found.extend(_flat(value, f"{name}."))
        else:
            found.append((name, value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)))
    return found
