"""Another model in the place of the search's own, for a verifier that asks one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from structdecode.core.digests import checkpoint_digest
from structdecode.core.errors import ConfigError
from structdecode.core.lookup import find_checkpoint, load_backend
from structdecode.core.protocols import Backend, Model, Verifier
from structdecode.core.settings import check_settings
from structdecode.core.types import Candidate, Prompt, Score
from structdecode.verifiers.own_model import OwnModel


@dataclass(frozen=True)
class OnModel(OwnModel):
    """Any verifier that asks a model, asking one of its own: ``{on-model: {model: PATH, verifier: p-true}}``.

    What it costs is the verifier's, its FLOPs counted by that model's size. Verifiers on one checkpoint share the weights.

    Attributes:
        model: the checkpoint's directory, its name on the hub, or a registered checkpoint.
        verifier: what asks it.
        device, dtype: default: CUDA where there is one; float32 on a CPU, else the checkpoint's own.
        digest: of the checkpoint in a directory: other weights at the same path are another verifier.
    """

    model: str
    verifier: Verifier
    device: str | None = None
    dtype: str = "auto"
    digest: str = field(init=False, default="")

    def __post_init__(self) -> None:
        check_settings(self)
        place = Path(find_checkpoint(self.model))
        if place.is_dir():
            object.__setattr__(self, "digest", checkpoint_digest(place))
        elif place.exists() or self.model.startswith((".", "/", "~")):
            raise ConfigError(f"on-model: model {self.model!r}: no such directory")

    async def score(self, prompt: Prompt, candidates: Sequence[Candidate], model: Model) -> list[Score]:
        if not candidates:
            return []
        options = {"device": self.device, "dtype": self.dtype}
        backend: Backend = await self._from_checkpoint(
            "model", self.model, self.digest, tuple(options.values()), lambda place: load_backend(self.model, **options)
        )
        return await self.verifier.score(prompt, candidates, model.on(backend))
