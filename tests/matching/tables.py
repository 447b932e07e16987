"""Reads the hand-made cases in ``cases/*.tsv``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structdecode.matching.types import Question

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """``expected`` is right, wrong, or a status other than answered. ``extracted`` is "" where it is not compared."""

    place: str
    expected: str
    rule: str
    extracted: str
    text: str
    question: Question


def cases() -> list[Case]:
    return [case for file in sorted(CASES.glob("*.tsv")) for case in _read(file)]


def _read(file: Path) -> Iterator[Case]:
    options: dict[str, dict[str, str]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        if line.startswith("# options"):
            _, name, listed = line.split("\t")
            options[name] = dict(pair.split("=", 1) for pair in listed.split("; ") if pair)
        if not line or line.startswith("#"):
            continue
        expected, rule, extracted, text, references, about = line.split("\t")
        given = dict(pair.split("=", 1) for pair in about.split("; ") if pair)
        yield Case(
            f"{file.name}:{number}",
            expected,
            rule,
            extracted,
            text.replace("⏎", "\n"),
            _question(references, given, options),
        )


def _question(references: str, given: dict[str, str], options: Mapping[str, dict[str, str]]) -> Question:
    """References are parted by ``;``, written ``\\;`` where it is part of one."""
    fields: dict[str, Any] = {}
    if "kind" in given:
        fields["kind"] = given["kind"]
    if "tolerance" in given:
        fields["tolerance"] = float(given["tolerance"])
    if given.get("options"):
        fields["options"] = options[given["options"]]
    answers = tuple(part.replace("\\;", ";") for part in re.split(r"(?<!\\);", references))
    return Question("case", given.get("question", "Q?"), answers, **fields)
