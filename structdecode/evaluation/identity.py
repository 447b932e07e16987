"""What a result depends on beside the strategy: the model, the questions, the machine; as digests and as words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from structdecode.core.digests import model_files
from structdecode.core.images import ImageSource, Picture
from structdecode.core.picture_files import FILES, picture_digest
from structdecode.core.plain import digest_of
from structdecode.evaluation.code import code_of_object
from structdecode.matching.types import Question

RECORD_VERSION = 4
"""Part of every key: goes up when a record of the same configuration would come out otherwise."""


def model_identity(backend: Any, name: str) -> dict[str, Any]:
    """``name``, ``digest`` (of weights and all else that a checkpoint's answers come from), ``dtype``, ``device`` (its type) and ``engine``."""
    recorded = getattr(backend, "identity", None)
    if recorded is not None:  # of a replay: the model's that was recorded
        return dict(recorded)
    model = getattr(backend, "model", None)
    parameter = next(iter(model.parameters()), None) if model is not None and hasattr(model, "parameters") else None
    return {
        "name": name,
        "digest": _weights_digest(backend, name),
        "dtype": None if parameter is None else str(parameter.dtype).removeprefix("torch."),
        "device": None if parameter is None else parameter.device.type,
        "engine": getattr(backend, "engine", None),
    }


def _weights_digest(backend: Any, name: str) -> str:
    """Of a directory's files; of a hub model its commit; else of the backend's name; and the code of a backend that is not ours."""
    place = Path(getattr(backend, "name", name))
    model = getattr(backend, "model", None)
    whole = model is None and is_dataclass(backend)
    code = code_of_object(backend if whole else type(backend), "backend")  # none, where it is our engine
    if place.is_dir():
        digests = [list(pair) for pair in model_files(place)]
        return digest_of([digests, code] if code else digests)
    commit = getattr(getattr(model, "config", None), "_commit_hash", None)
    return digest_of([str(getattr(backend, "name", name)), commit, code])


def question_digest(question: Question) -> str:
    """Of all that decides how it is answered and matched: not of paths, so the same data may lie elsewhere."""
    return digest_of(
        [
            question.id, question.text, list(question.answers), [_source_digest(s) for s in question.images],
            dict(question.options), question.kind, question.tolerance, dict(question.stages),
        ]
    )  # fmt: skip


def cluster_of(question: Question) -> str:
    """Questions with the same one are not independent: the data's own cluster, else the pictures; without, its own."""
    if question.cluster:
        return f"cluster {question.cluster}"
    pictures = sorted(_source_digest(source) for source in question.images)
    return f"pictures {digest_of(pictures)}" if pictures else f"question {question.id}"


def _source_digest(source: ImageSource | Picture) -> str:
    if isinstance(source, Picture):
        return source.digest
    if isinstance(source, Image.Image):
        return picture_digest(f"{source.mode}{source.size}".encode() + source.tobytes())
    if isinstance(source, bytes):
        return picture_digest(source)
    if isinstance(source, str) and source.startswith("data:"):
        return picture_digest(source.encode())
    try:
        return FILES.digest(source)
    except OSError:
        return "missing"


def data_digest(questions: Sequence[Question]) -> str:
    """Of the questions as a set: their order does not matter."""
    return digest_of(sorted(question_digest(q) for q in questions))
