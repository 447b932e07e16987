"""Looks at a set-up and says what does not fit, with a remedy."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structdecode.core.errors import ModelError, StructdecodeError
from structdecode.core.lookup import OWN, load_backend
from structdecode.core.types import Prompt, Schema


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    what: str
    remedy: str = ""


def examine(model: str | None, image: Path | None, schema: str, backend: str | None = None) -> list[Finding]:
    """Everything in turn; what depends on a broken thing is left out."""
    findings = [_versions(), _devices()]
    loaded = _try(findings, f"schema {schema}", lambda: _schema(schema))
    prompt = _try(findings, f"picture {image or '(a blank one)'}", lambda: _prompt(image))
    ours = backend in (None, OWN)
    running = _try(findings, f"model {model or 'pocket'}", lambda: _ours(model) if ours else _other(model, backend))
    if running is None or prompt is None or loaded is None:
        return findings
    if not ours:
        _try(findings, "answers by stages", lambda: _answers(running, loaded, prompt))
    elif _try(findings, "chat template and processor", lambda: _tokens(running, loaded, prompt)) is not None:
        findings += _tags(running, loaded)
        if _try(findings, "decodes as its own generate", lambda: _decodes(running)):
            _try(findings, "the picture changes the answer", lambda: _sees_picture(running))
    return findings


def _try(findings: list[Finding], what: str, work: Any) -> Any:
    try:
        value, note = work()
    except StructdecodeError as error:
        findings.append(Finding(False, what, str(error)))
        return None
    except Exception as error:  # a model's own: what it is told is of more use than a traceback
        first = str(error).strip().split("\n")[0][:300]
        findings.append(Finding(False, what, f"{type(error).__name__}: {first}"))
        return None
    findings.append(Finding(True, f"{what}: {note}"))
    return value


def _versions() -> Finding:
    names = ("structdecode", "torch", "transformers", "numpy", "pillow")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return Finding(True, f"Python {platform.python_version()}, {', '.join(versions)}")


def _devices() -> Finding:
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return Finding(True, f"devices: {', '.join(devices) or 'no CUDA'}; CPU with {torch.get_num_threads()} threads")


def _schema(name: str) -> tuple[Schema, str]:
    from structdecode.core.lookup import find_schema

    schema = find_schema(name)
    return schema, ", ".join(stage.name for stage in schema.stages)


def _prompt(image: Path | None) -> tuple[Prompt, str]:
    from PIL import Image

    prompt = Prompt("What is in the picture?", [image or Image.new("RGB", (64, 64), "white")])
    return prompt, "{}x{} RGB".format(*prompt.images[0].image.size)


def _other(model: str | None, backend: str | None) -> tuple[Any, str]:
    made = load_backend(model, backend=backend)
    return made, f"{made.name}, backend {backend}"


def _answers(backend: Any, schema: Schema, prompt: Prompt) -> tuple[bool, str]:
    """What can be asked of any backend: one short answer, its stages closed."""
    from structdecode.core.engine import decode

    result = decode(prompt, backend=backend, schema=schema, budget={"tokens": 64 * len(schema.stages)})
    return True, f"{result.usage.generated_tokens} tokens"


def _ours(model: str | None) -> tuple[Any, str]:
    backend: Any = load_backend(model, check=False)
    parameters = sum(p.numel() for p in backend.model.parameters()) / 1e6
    return (
        backend,
        f"{type(backend.model).__name__}, {parameters:.1f} M parameters, {backend.model.dtype}, engine {backend.engine}",
    )


def _tokens(backend: Any, schema: Schema, prompt: Prompt) -> tuple[int, str]:
    length = backend.codec.inputs(schema.ask(prompt))["input_ids"].shape[1]
    return length, f"a prompt of {length} tokens, room for {backend.codec.max_length - length}"


def _tags(backend: Any, schema: Schema) -> list[Finding]:
    """A tag that does not survive the tokenizer would never be found again."""
    findings = []
    for stage in schema.stages:
        for tag in filter(None, (stage.begin, stage.end)):
            back = backend.codec.decode(backend.codec.encode(tag)).strip()
            remedy = f"the tokenizer turns it into {back!r}: choose other tags, or add them to the tokenizer"
            findings.append(Finding(back == tag, f"tag {tag}", remedy))
    return findings


def _decodes(backend: Any) -> tuple[bool, str]:
    """Forked, ragged rows with a picture: a wrong one is a `ModelError`."""
    from structdecode.backends.transformers.selfcheck import compare

    compared = compare(backend)
    if compared.why_not:
        return True, f"not compared, {compared.why_not}"
    return True, f"{compared.tokens} tokens of forked rows, off by {compared.worst:.0e} nats at most"


def _sees_picture(backend: Any) -> tuple[bool, str]:
    """Two different pictures should not give the same probabilities (a fresh Mllama's gates are closed)."""
    from PIL import Image

    from structdecode.core.engine import run_sync

    async def likely(colour: str) -> Any:
        async with backend.open(Prompt("What is it?", [Image.new("RGB", (64, 64), colour)])) as session:
            return (await session.log_probs(["It is a picture of a red square."])).value

    if run_sync(likely("black")) == run_sync(likely("white")):
        raise ModelError("the model ignores pictures: is it trained (Mllama's gates open)?")
    return True, "black and white ones are told apart"
