from __future__ import annotations

from typing import Any


def pictures(doc: dict[str, Any]) -> list[Any]:
    return [doc["image"]]


def question(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return str(doc["question"])
