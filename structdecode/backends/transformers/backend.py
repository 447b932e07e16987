"""The local backend: owns a model, runs its work in one thread, leaves nothing behind on the model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from structdecode.backends.transformers.encoding import Codec
from structdecode.backends.transformers.loading import check_processor, load_model
from structdecode.backends.transformers.packing import PackedLinears
from structdecode.backends.transformers.plain.session import PlainSession
from structdecode.backends.transformers.slots.attention import slots_can_run, text_configs
from structdecode.backends.transformers.slots.forward import Forward
from structdecode.backends.transformers.slots.prefixes import PrefixCache
from structdecode.backends.transformers.slots.recording import CudaGraphs
from structdecode.backends.transformers.slots.scheduler import Scheduler
from structdecode.backends.transformers.slots.session import SlotSession
from structdecode.backends.transformers.threads import release_team
from structdecode.backends.transformers.vision import ImageMemory, vision_tower
from structdecode.errors import ConfigError, UnknownNameError
from structdecode.protocols import Session
from structdecode.types import Prompt

T = TypeVar("T")
Engine = Literal["slots", "plain"]

LOOK_EVERY = 8
"""On CUDA: decoding steps between two looks at the tokens. A row decodes half as many in vain on average."""


class TransformersBackend:
    """Any image-text-to-text model of transformers.

    A model that is handed over is only borrowed: training mode, position state and forward functions are after
    each call what they were before.

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

    Raises:
        ModelError: the processor takes no pictures or has no chat template.
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
    ) -> None:
        self.model, self.processor = model, processor
        self.name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
        check_processor(processor, self.name)
        self.codec = Codec(processor, model)
        self.image_token: int | None = getattr(model.config, "image_token_id", None)
        self.tower = vision_tower(model)
        text_config = model.config.get_text_config()
        self.cross_layers = frozenset(getattr(text_config, "cross_attention_layers", None) or ())
        if engine not in get_args(Engine):
            raise UnknownNameError("engine", engine, get_args(Engine))
        if max_rows < 1 or prefix_cache_bytes < 0:
            raise ConfigError(f"max_rows must be 1 or more (not {max_rows}), prefix_cache_bytes 0 or more")
        self.engine: Engine = engine if slots_can_run(model) else "plain"
        self.prefixes = PrefixCache(prefix_cache_bytes)
        self._pack_weights = pack_weights
        self._packed: PackedLinears | None = None
        on_cuda = torch.device(model.device).type == "cuda"
        forward = Forward(
            lambda **inputs: self.forward(**inputs)[0].logits, text_configs(model), text_config.num_hidden_layers,
            self.cross_layers, self.codec.max_length, CudaGraphs() if on_cuda and record_steps else None,
        )  # fmt: skip
        look_every = LOOK_EVERY if on_cuda else 1
        self.scheduler = Scheduler(forward, self._borrowed, self.prefixes.clear, max_rows, look_every)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="structdecode-model")

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
            pack_weights=pack_weights, record_steps=record_steps,
        )  # fmt: skip

    def open(self, prompt: Prompt) -> AbstractAsyncContextManager[Session]:
        return self.open_sharing(prompt, ImageMemory())

    @asynccontextmanager
    async def open_sharing(self, prompt: Prompt, images: ImageMemory) -> AsyncIterator[Session]:
        """A session whose pictures are looked up in (and added to) an image memory."""
        session = (SlotSession if self.engine == "slots" else PlainSession)(self, prompt, images)
        try:
            yield session
        finally:
            session.close()

    async def run(self, work: Callable[[], T]) -> T:
        """Runs model work in the worker thread, one piece at a time."""

        def guarded() -> T:
            try:
                with torch.inference_mode(), self._borrowed():
                    return work()
            finally:
                release_team()

        release_team()
        return await asyncio.get_running_loop().run_in_executor(self._worker, guarded)

    def forward(self, **inputs: Any) -> tuple[Any, int]:
        """The model's output, and how far its next position is from the number of tokens (mRoPE; else 0)."""
        owner = getattr(self.model, "model", self.model)
        if hasattr(owner, "rope_deltas"):
            owner.rope_deltas = None  # another prompt's: a prompt without pictures would take it for its own
        return self.model(**inputs, return_dict=True), self.rope_delta()

    def rope_delta(self) -> int:
        """What the last forward left: how far the next position is from the number of tokens."""
        delta = getattr(getattr(self.model, "model", self.model), "rope_deltas", None)
        return int(delta.flatten()[0]) if isinstance(delta, torch.Tensor) else 0

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        owner = getattr(self.model, "model", self.model)
        training = self.model.training
        has_deltas, deltas = hasattr(owner, "rope_deltas"), getattr(owner, "rope_deltas", None)
        if training:
            self.model.eval()
        if self._packed is None:
            self._packed = PackedLinears(self.model if self._pack_weights else torch.nn.Module())
        try:
            with self._packed.installed():
                yield
        finally:
            if has_deltas:
                owner.rope_deltas = deltas
            if training:
                self.model.train()
