"""Whether an engine gives what the model's own `generate` gives: tried on a few tokens before the first search.

Architectures differ in what a decoding engine has to know of them (positions, windows, which logits come back), and
one that it does not know decodes to the end and is wrong without a word. So rows are forked behind forced tags, gone
on with at different lengths in one batch, and a second question is asked about the same picture; where the model has a
window, once more behind a prompt that the answers grow out of it from, and behind a longer one. The log-probability of
every token written has to be that of a `generate` which is forced to write the same tokens. That runs on a twin of its
own (`twin.py`): the model is left alone, as in a search.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessor, LogitsProcessorList
from transformers import __version__ as transformers_version

from structdecode.backends.transformers.memory import out_of_memory
from structdecode.backends.transformers.slots.attention import text_configs
from structdecode.backends.transformers.threads import release_openmp_threads
from structdecode.backends.transformers.twin import twin
from structdecode.core.errors import ModelError, ModelFailedError, PromptError, StructdecodeError
from structdecode.core.protocols import GenerationRequest, Row
from structdecode.core.types import Candidate, Prompt, Sampling, Stage

if TYPE_CHECKING:
    from structdecode.backends.transformers.backend import TransformersBackend

ALLOWED = {"float64": 2e-3, "float32": 2e-3, "float16": 0.1}
"""By precision: what a log-probability may be off, as a share of the larger of 1 nat and its size."""

COARSE = 0.25
"""The same in bfloat16, with quantised weights, and where float32 products are rounded (TF32)."""

STRAYS = 0.25
"""The share of tokens that may be off by more where it is not exact: rounding may decide which experts are asked."""

THOROUGH_UP_TO = 1_000_000_000
"""Parameters up to which a first load on a CPU tries more than short text; `structdecode doctor` always does."""

WINDOWED_UP_TO = 4096
"""Tokens up to which a window is filled to see what is behind it."""

_STAGES = (Stage.tagged("CAPTION"), Stage.tagged("CONCLUSION"))
_SAMPLING = Sampling(temperature=1.2, max_tokens=6)
_QUESTIONS = ("What is in the picture?", "Is there a red square in the picture, or is there none?")
_passed: set[str] = set()

Pairs = list[tuple[float, float]]
"""Log-probabilities of the same tokens: the engine's and the model's."""


@dataclass(frozen=True)
class Comparison:
    """How many tokens were compared, and the largest difference in nats; ``why_not``: why none could be."""

    tokens: int = 0
    worst: float = 0.0
    why_not: str = ""


class _NotComparableError(Exception):
    """The model's own `generate` gives nothing to compare with."""


class _EngineError(Exception):
    """The engine fails where it should not."""


def check_once(backend: TransformersBackend) -> None:
    """Checks an engine on the first model of each configuration in this process.

    Raises:
        ModelError: as `compare`.
    """
    key = _key(backend)
    if key not in _passed:
        compare(backend, backend.model.device.type != "cpu" or _parameters(backend.model) <= THOROUGH_UP_TO)
        _passed.add(key)


def compare(backend: TransformersBackend, thorough: bool = True) -> Comparison:
    """Has the engine write a few tokens and holds them against the model's own `generate`.

    Args:
        thorough: with a picture, and with prompts that are as long as the model's windows.

    Raises:
        ModelError: they are not alike, the engine fails where it should not, or the processor refuses a picture.
    """
    from structdecode.core.engine import run_sync

    reason = _incomparable(backend.model)
    if reason:
        return Comparison(why_not=reason)
    try:
        pairs: Pairs = []
        written, reference = run_sync(_written(backend, thorough)), _reference(backend.model)
        for prompt, candidates in written:
            pairs += _compared(reference, backend.codec.inputs(prompt), candidates)
    except _NotComparableError as error:
        return Comparison(why_not=str(error))
    except _EngineError as error:
        raise ModelError(f"{_what(backend)} fails: {error}; {_remedy(backend, thorough, decodes=False)}") from error
    finally:
        backend.prefixes.reset()
        release_openmp_threads()
    if off := _off(backend.model, pairs):
        mine, theirs = max(off, key=lambda pair: abs(pair[0] - pair[1]))
        raise ModelError(
            f"{_what(backend)} decodes {len(off)} of {len(pairs)} tokens {'behind a picture ' if thorough else ''}otherwise "
            f"than its own generate (a log-probability of {mine:.3f}, not {theirs:.3f}); {_remedy(backend, thorough, decodes=True)}"
        )
    return Comparison(len(pairs), max((abs(mine - theirs) for mine, theirs in pairs), default=0.0))


def _incomparable(model: Any) -> str:
    """Why a model cannot be compared here; empty where it can."""
    if any(parameter.device.type == "meta" for parameter in model.parameters()):
        return "its weights are not all on the device"
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        return "several processes compute with it"
    return "" if hasattr(model, "generate") else "it has no generate"


# ------------------------------------------------------------------ what the engine writes
async def _written(backend: TransformersBackend, thorough: bool) -> list[tuple[Prompt, list[Candidate]]]:
    """Prompts about the same picture, and what was written behind them."""
    pictures = [_picture()] if thorough and getattr(backend.processor, "image_processor", None) is not None else []
    first, second = (Prompt(question, pictures) for question in _QUESTIONS)
    root, window = Candidate(), _window(backend) if thorough else 0
    try:
        written = []
        for length in (0, window - 4, window + 8) if window else (0,):
            prompt = _lengthened(backend, first, length)
            async with backend.open(prompt) as session:
                begun = await _grown(session, [Row(root, 1, 2), Row(root, 2, 6), Row(root, 3, 4)], 0)
                if not length:
                    async with session.open(second) as other:
                        written.append((second, await _grown(other, [Row(root, 1, 3), Row(root, 2, 3)], 0)))
                written.append((prompt, await _grown(session, [Row(each, 4, 4) for each in (root, *begun)], 1)))
        return written
    except PromptError as error:
        if error.__cause__ is None:  # longer than the context, say
            raise _NotComparableError(str(error)) from error
        raise ModelError(f"model {backend.name!r}: {error}") from error
    except Exception as error:
        cause = error.__cause__ if isinstance(error, ModelFailedError) else error
        if isinstance(cause, StructdecodeError) or not isinstance(cause, Exception):
            raise
        if out_of_memory(cause):
            raise _NotComparableError("there is no memory for it") from error
        raise _EngineError(_first_line(cause)) from error


def _window(backend: TransformersBackend) -> int:
    """The shortest window or chunk that its text model attends through; 0 where none is within reach."""
    found = []
    for config in text_configs(backend.model):
        found.append(getattr(config, "attention_chunk_size", None))
        if getattr(config, "use_sliding_window", True):
            found.append(getattr(config, "sliding_window", None))
    reach = min(WINDOWED_UP_TO, backend.codec.max_length - 64)
    return min((size for size in found if size and size <= reach), default=0)


def _lengthened(backend: TransformersBackend, prompt: Prompt, tokens: int) -> Prompt:
    """A prompt with words put behind its question until it has about ``tokens`` tokens, if it has fewer."""
    word = " red" * 4
    missing = tokens - backend.codec.inputs(prompt)["input_ids"].shape[1]
    return replace(prompt, question=prompt.question + word * max(0, missing // len(backend.codec.encode(word))))


async def _grown(session: Any, rows: list[Row], stage: int) -> list[Candidate]:
    work = await session.extend(rows, GenerationRequest(_STAGES[stage], _SAMPLING))
    return [row.prefix.extended(span, at) for at, (row, span) in enumerate(zip(rows, work.value, strict=True))]


def _picture() -> Image.Image:
    """64 by 64 pixels: a red and a blue square on a slope of grey."""
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    picture.paste((200, 30, 30), (8, 8, 28, 28))
    picture.paste((30, 30, 200), (36, 30, 60, 54))
    return picture


# ------------------------------------------------------------------ what the model writes
class _Forced(LogitsProcessor):
    """Leaves each row no choice but its given tokens, and behind them the first of the vocabulary."""

    def __init__(self, start: int, rows: Sequence[Sequence[int]]) -> None:
        self.start, self.rows = start, rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        at = input_ids.shape[1] - self.start
        tokens = torch.tensor([row[at] if at < len(row) else 0 for row in self.rows], device=scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, tokens[:, None], 0.0)


def _reference(model: Any) -> Any:
    """A twin whose `generate` has no beams or penalties of its own."""
    reference: Any = twin(model)
    bos = getattr(model.generation_config, "bos_token_id", None)
    reference.generation_config = GenerationConfig(pad_token_id=0, bos_token_id=bos)
    return reference


def _compared(reference: Any, inputs: dict[str, Tensor], candidates: Sequence[Candidate]) -> Pairs:
    """All rows at once; one at a time where that fails or is not alike, for some models repeat a prompt wrongly.

    Raises:
        _NotComparableError: `generate` fails.
    """
    rows = [candidate.token_ids for candidate in candidates]
    try:
        pairs = _pairs(candidates, _forced(reference, inputs, rows))
        if not _off(reference, pairs):
            return pairs
    except Exception:  # whatever transformers raises
        pass
    try:
        return _pairs(candidates, [_forced(reference, inputs, [row])[0] for row in rows])
    except Exception as error:
        raise _NotComparableError(f"its generate fails: {_first_line(error)}") from error


def _forced(reference: Any, inputs: dict[str, Tensor], rows: list[tuple[int, ...]]) -> list[list[float]]:
    """Log-probability of each token of each row. The global generator stays as it was."""
    longest = max(map(len, rows))
    options = {
        **inputs, "do_sample": True, "num_return_sequences": len(rows), "max_new_tokens": longest, "output_logits": True,
        "return_dict_in_generate": True, "logits_processor": LogitsProcessorList([_Forced(inputs["input_ids"].shape[1], rows)]),
    }  # fmt: skip
    devices = [reference.device] if reference.device.type == "cuda" else []
    with torch.inference_mode(), torch.random.fork_rng(devices=devices):
        output = reference.generate(**options)
        written = output.sequences[:, -longest:].tolist()
        if any(tuple(ids[: len(row)]) != row for ids, row in zip(written, rows, strict=True)):
            output = GenerationMixin.generate(reference, **options)  # Janus' own leaves the processors out
    logits = torch.stack(output.logits, 1).float().log_softmax(-1)  # [B, T, V]
    return [logits[i, range(len(ids)), list(ids)].tolist() for i, ids in enumerate(rows)]


# ------------------------------------------------------------------ the verdict
def _pairs(candidates: Sequence[Candidate], expected: Sequence[Sequence[float]]) -> Pairs:
    """Of the tokens that were drawn, not those that were forced. Tokens that the model masks have no log-probability."""
    pairs: Pairs = []
    for candidate, values in zip(candidates, expected, strict=True):
        at = 0
        for span in candidate.spans:
            at += len(span.prefix_ids)
            pairs += zip(span.log_probs, values[at : at + len(span.token_ids)], strict=True)
            at += len(span.token_ids) + len(span.suffix_ids)
    return [(mine, theirs) for mine, theirs in pairs if abs(theirs) < float("inf")]


def _off(model: Any, pairs: Pairs) -> Pairs:
    """Those that differ by more than rounding explains; none where no more do than may."""
    precision = str(model.dtype).removeprefix("torch.")
    quantised = getattr(model, "quantization_method", None) is not None
    exact = precision in ("float32", "float64") and torch.get_float32_matmul_precision() == "highest" and not quantised
    allowed = ALLOWED.get(precision, COARSE) if exact or (precision == "float16" and not quantised) else COARSE
    off = [(mine, theirs) for mine, theirs in pairs if not abs(mine - theirs) <= allowed * max(1.0, abs(theirs))]
    return off if exact or len(off) > STRAYS * len(pairs) else []


def _what(backend: TransformersBackend) -> str:
    return f"model {backend.name!r}: engine={backend.engine!r} on {type(backend.model).__name__}"


def _remedy(backend: TransformersBackend, thorough: bool, *, decodes: bool) -> str:
    """What helps, as tried. ``decodes``: whether the engine comes to an end, if to a wrong one."""
    report = f"report it (transformers {transformers_version})"
    if backend.engine == "slots" and _plain_is_right(backend, thorough):
        return f"load it with engine='plain', or {report}"
    return f"{report}; " + ("check=False (--no-check) decodes all the same" if decodes else "no other setting helps")


def _plain_is_right(backend: TransformersBackend, thorough: bool) -> bool:
    options: dict[str, Any] = {"engine": "plain", "pack_weights": False, "check": False}
    with type(backend)(backend.model, backend.processor, backend.name, **options) as plain:
        try:
            return compare(plain, thorough).tokens > 0
        except ModelError:
            return False


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0][:200]}"


def _key(backend: TransformersBackend) -> str:
    """What decides how a model is decoded: its class and configuration, precision, device and engine."""
    model = backend.model
    config = {key: value for key, value in model.config.to_dict().items() if key != "_name_or_path"}
    attention = getattr(model.config, "_attn_implementation", None)
    known = [repr(type(model)), id(type(model)), backend.engine, str(model.dtype), model.device.type, str(attention)]
    return hashlib.blake2b(
        json.dumps([known, config], default=str, sort_keys=True).encode(), digest_size=16
    ).hexdigest()


def _parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
