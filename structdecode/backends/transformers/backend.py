"""The local backend: runs a model's work in one thread, and leaves the model alone."""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from structdecode.backends.transformers.constraints import check_constraints, constraints
from structdecode.backends.transformers.encoding import Codec
from structdecode.backends.transformers.failures import model_failure
from structdecode.backends.transformers.flops import model_cost
from structdecode.backends.transformers.loading import check_processor, load_model
from structdecode.backends.transformers.packing import pack_linears
from structdecode.backends.transformers.plain.session import PlainSession
from structdecode.backends.transformers.plain.stepwise import StepwiseSession, needs_steps
from structdecode.backends.transformers.refusals import check_architecture
from structdecode.backends.transformers.selfcheck import check_once
from structdecode.backends.transformers.slots.attention import slots_can_run, text_configs
from structdecode.backends.transformers.slots.forward import Forward
from structdecode.backends.transformers.slots.prefixes import PrefixCache
from structdecode.backends.transformers.slots.recording import CudaGraphs
from structdecode.backends.transformers.slots.scheduler import Scheduler
from structdecode.backends.transformers.slots.session import SlotSession
from structdecode.backends.transformers.threads import release_openmp_threads, until_stopped
from structdecode.backends.transformers.twin import Borrowed, changed_midway
from structdecode.backends.transformers.vision import ImageMemory, vision_tower
from structdecode.core.errors import ConfigError, ModelError, UnknownNameError
from structdecode.core.flops import ModelCost
from structdecode.core.protocols import Session
from structdecode.core.resolution import resolution
from structdecode.core.types import Prompt

T = TypeVar("T")
Engine = Literal["slots", "plain"]

ISOLATED_BYTES = 512 << 20
"""What an isolated view keeps of prompts. A large search whose judge's prompts take more computes some again."""

LOOK_EVERY = 8
"""On CUDA: decoding steps between two looks at the tokens. A row decodes half as many in vain on average."""


class TransformersBackend:
    """Any image-text-to-text model of transformers.

    A model that is handed over is only borrowed: what runs is a twin (`twin.py`), modules of its own around the same
    weights, so other threads and other backends may use the model at the same time. Whenever work begins or a search
    opens the model is looked at (`freshness.py`); if its weights, adapters, attention or configuration are not what
    they were, nothing that was computed before is used any more, and searches that are open compute their prompts
    anew (which is billed). Update weights between searches: requests under whose hands they are overwritten fail
    with `ModelError`.

    Args:
        model: an image-text-to-text model, on its device.
        processor: its processor, with an image processor, a tokenizer and a chat template.
        name: what traces call it; default: the model's own name or path.
        engine: ``slots`` decodes all open questions in one batch; ``plain`` takes one request at a time (the
            specification of the other, and the way for models that attend otherwise than fully and causally).
        max_rows: the most rows that are decoded in one batch.
        prefix_cache_bytes: what prompts are kept for later ones, least recently used first out; 0 keeps none.
        record_steps: on CUDA, record a decoding step as a CUDA graph and replay it while the rows stay the same.
        pack_weights: on a CPU in float32, multiply by a second copy of the weights that is laid out for few rows
            (where there is room for it); a step takes about half the time.
        check: hold the engine against the model's own ``generate`` on a few tokens, once for each configuration in a
            process (`selfcheck.py`).

    Raises:
        ModelError: the processor takes no pictures or has no chat template, the architecture cannot be decoded from a
            kept beginning (`refusals.py`), ``generation_config`` asks for what is not done here, or the engine does not
            give what the model gives.
        ConfigError: the engine is unknown or a limit below what makes sense.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str | None = None,
        *,
        engine: Engine = "slots",
        max_rows: int = 256,
        prefix_cache_bytes: int = 1 << 30,
        pack_weights: bool = True,
        record_steps: bool = True,
        check: bool = True,
    ) -> None:
        self.model, self.processor = model, processor
        self.name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
        check_processor(processor, self.name)
        check_architecture(model, self.name)
        check_constraints(model, self.name)
        self.codec = Codec(processor, model)
        self.image_token: int | None = getattr(model.config, "image_token_id", None)
        self.tower = vision_tower(model)
        text_config = model.config.get_text_config()
        self.cross_layers = frozenset(getattr(text_config, "cross_attention_layers", None) or ())
        if engine not in get_args(Engine):
            raise UnknownNameError("engine", engine, get_args(Engine))
        if max_rows < 1 or prefix_cache_bytes < 0:
            raise ConfigError(f"max_rows must be 1 or more (not {max_rows}), prefix_cache_bytes 0 or more")
        stepwise = needs_steps(model, text_configs(model))
        self.engine: Engine = engine if slots_can_run(model) and not stepwise else "plain"
        plain = StepwiseSession if stepwise else PlainSession
        self._session: type[SlotSession | PlainSession] = SlotSession if self.engine == "slots" else plain
        self.prefixes = PrefixCache(prefix_cache_bytes)
        self._pack_weights = pack_weights
        self._borrowed = Borrowed(model, self._prepare)
        on_cuda = torch.device(model.device).type == "cuda"
        forward = Forward(
            lambda **inputs: self.forward(**inputs)[0], text_config.num_hidden_layers,
            self.cross_layers, self.codec.max_length, CudaGraphs() if on_cuda and record_steps else None,
        )  # fmt: skip
        sync_interval = LOOK_EVERY if on_cuda else 1
        self.scheduler = Scheduler(forward, self._borrowed, self.prefixes.clear, max_rows, sync_interval)
        self._process, self._closed = os.getpid(), False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="structdecode-model")
        if check:
            check_once(self)

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        engine: Engine = "slots",
        max_rows: int = 256,
        prefix_cache_bytes: int = 1 << 30,
        pack_weights: bool = True,
        record_steps: bool = True,
        check: bool = True,
    ) -> TransformersBackend:
        """Loads a checkpoint directory or hub name; ``device=None`` is CUDA where there is one. The rest as above.

        Raises:
            ModelError: it cannot be loaded; the message says what to do.
            ConfigError: device or dtype is unknown.
        """
        name = str(name)
        model, processor = load_model(
            name, device=device, dtype=dtype, trust_remote_code=trust_remote_code, allow_pickle=allow_pickle
        )
        return cls(
            model, processor, name, engine=engine, max_rows=max_rows, prefix_cache_bytes=prefix_cache_bytes,
            pack_weights=pack_weights, record_steps=record_steps, check=check,
        )  # fmt: skip

    def close(self) -> None:
        """Ends the backend's threads and lets go of its caches and of the model; searches that are open fail."""
        self._closed = True
        self.scheduler.close()
        self._worker.shutdown(wait=True)
        self.prefixes.clear()

    def __enter__(self) -> TransformersBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        if self._closed:
            raise ModelError(f"model {self.name!r}: this backend was closed: make a new one")
        if os.getpid() != self._process:
            raise ModelError(
                f"model {self.name!r}: this backend was made before the process forked, and its threads are not here: make "
                "one in each process, or start processes with 'spawn'"
            )
        self.scheduler.check_soon()
        return self.open_sharing(prompt, ImageMemory())

    def isolated(self) -> TransformersBackend:
        """The same backend (model, scheduler, batches) with an empty prefix cache of its own; throw it away afterwards.

        What a question costs there does not depend on what was asked before or beside it: its prompts wait for every
        token that one of them brings, not only where that saves time, so they cost what their common tree has.
        """
        view = copy.copy(self)
        view.prefixes = PrefixCache(ISOLATED_BYTES, worth=1)
        return view

    @property
    def flops(self) -> ModelCost | None:
        """What a token and a picture cost; None of a model that does not show its text model."""
        return model_cost(self.model) if hasattr(self.model, "get_decoder") else None

    @property
    def resolution(self) -> float:
        """See `structdecode.core.protocols.Session.resolution`."""
        return resolution(self.model.dtype)

    @asynccontextmanager
    async def open_sharing(self, prompt: Prompt, images: ImageMemory) -> AsyncIterator[Session]:
        """A session whose pictures are looked up in (and added to) an image memory."""
        session = self._session(self, prompt, images)
        try:
            yield session
        finally:
            session.close()

    async def run(self, work: Callable[[], T], give_up: Callable[[], object] = lambda: None) -> T:
        """Runs model work in the worker thread, one piece at a time.

        Cancelled, it calls ``give_up`` (or does not begin) and ends when the work has ended.

        Raises:
            ModelError: the model failed on it, or its weights were overwritten meanwhile.
        """

        def guarded() -> T:
            try:
                with torch.inference_mode():
                    self._borrowed.refresh()
                    done = work()
                    if self._borrowed.overwritten():
                        raise changed_midway()
                    return done
            except Exception as error:
                failure = model_failure(error)
                raise failure from failure.__cause__
            finally:
                release_openmp_threads()

        release_openmp_threads()
        begun = self._worker.submit(guarded)
        return await until_stopped(asyncio.wrap_future(begun), lambda: begun.cancel() or give_up())

    @property
    def constraints(self) -> dict[str, Any]:
        """What the checkpoint's ``generation_config`` asks of drawing, and is done (for the trace)."""
        return constraints(self.model)

    def token_texts(self, ids: Sequence[int]) -> list[str]:
        """The text of each token of an answer (for the trace)."""
        return self.codec.token_texts(ids)

    @property
    def running(self) -> Any:
        """The model that runs: the twin."""
        return self._borrowed.twin

    @property
    def running_tower(self) -> torch.nn.Module | None:
        """Its module that sees pictures."""
        return self._borrowed.tower

    @property
    def packed_layers(self) -> int:
        """Its linear layers that multiply by packed copies."""
        return self._borrowed.packed_layers

    @property
    def epoch(self) -> int:
        """What is computed now is good as long as this stays the same."""
        return self._borrowed.epoch

    @property
    def rotates(self) -> bool:
        """Whether positions behind pictures lag behind the number of tokens (mRoPE), and are given to the model."""
        return self._borrowed.positioned is not None

    def forward(self, **inputs: Any) -> tuple[Any, int]:
        """The model's output, and how far its next position is from the number of tokens (mRoPE; else 0)."""
        if self._borrowed.positioned is not None:
            # Another prompt's: one without pictures would take it for its own.
            self._borrowed.positioned.rope_deltas = None
        return self.running(**inputs, return_dict=True), self.rope_delta()

    def rope_delta(self) -> int:
        """What the last forward left: how far the next position is from the number of tokens."""
        delta = getattr(self._borrowed.positioned, "rope_deltas", None)
        return int(delta.flatten()[0]) if isinstance(delta, torch.Tensor) else 0

    def _prepare(self, twin: torch.nn.Module) -> None:
        """Sets up a new twin; what was computed with the one before is let go of by its epoch."""
        if self.engine == "slots" and not slots_can_run(twin):
            raise ModelError(f"model {self.name!r} attends otherwise now than engine='slots' can: make a new backend")
        self.scheduler.forward.configs = text_configs(twin)
        self._borrowed.tower = vision_tower(twin)
        self._borrowed.positioned = next((m for m in twin.modules() if "rope_deltas" in vars(m)), None)
        self._borrowed.packed_layers = pack_linears(twin) if self._pack_weights else 0
