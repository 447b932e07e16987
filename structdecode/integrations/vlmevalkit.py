"""structdecode as a model of VLMEvalKit. It has no discovery of plug-ins, so the class has to be made known to it:

- ``python -m structdecode.integrations.vlmevalkit --config study.json`` runs its ``run.py`` with the class known, as
  ``"class": "StructDecode"`` in the config's models (and ``--model structdecode`` with the pocket model), or
- ``from structdecode.integrations.vlmevalkit import register; register("stage-beam-4", strategy="stage-beam")`` puts a
  model into its ``supported_VLM``.
"""

from __future__ import annotations

import hashlib
import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from structdecode.core.engine import decode
from structdecode.core.errors import ConfigError, ImageError, PromptError, StructdecodeError
from structdecode.core.results import Result
from structdecode.core.types import Prompt
from structdecode.integrations.messages import prompt_from_messages
from structdecode.integrations.search import Search

try:
    from vlmeval.vlm.base import BaseModel as _Model
except ModuleNotFoundError as missing:  # the module can be read and documented without the harness
    if missing.name != "vlmeval":  # it is there, but something that it needs is not: that is to be seen
        raise
    _Model = None

_MISSING = (
    "VLMEvalKit is not installed: git clone https://github.com/open-compass/VLMEvalKit && pip install -e VLMEvalKit"
)
FAILED = "Failed to obtain answer via API."
"""By this text VLMEvalKit knows a failed inference, counts it apart, and tries it again when the run is repeated."""


class StructDecode(_Model or object):  # type: ignore[misc]
    """Answers with a search.

    Args:
        pretrained: checkpoint directory, hub name, or ``pocket``, the embedded model.
        concurrent: let the harness ask from several threads (its ``--api-nproc``): then the questions in flight share
            one batch. It does that only for models that say they are an API, and only in one process.
        arguments: see `Search.from_arguments`.

    Raises:
        ConfigError: VLMEvalKit is not installed, or an argument unknown or wrong.
        ModelError: the checkpoint cannot be loaded.
    """

    INTERLEAVE = True
    allowed_types = ("text", "image")

    def __init__(self, pretrained: str = "pocket", concurrent: bool = False, **arguments: Any) -> None:
        if _Model is None:
            raise ConfigError(_MISSING)
        super().__init__()
        self.is_api = concurrent
        self.search = Search.from_arguments({"pretrained": pretrained, **arguments})
        self.backend = self.search.load_backend()

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> dict[str, Any]:
        """``{"prediction", "extra_records"}`` for one question, given as parts with ``type`` and ``value``.

        Raises:
            ConfigError: a part is video or audio.
        """
        return self.chat_inner([{"role": "user", "content": message}], dataset)

    def chat_inner(self, messages: Sequence[Mapping[str, Any]], dataset: str | None = None) -> dict[str, Any]:
        """The same for a talk of several turns, the last of them the question."""
        try:
            prompt = prompt_from_messages(messages)
            result = decode(
                prompt, backend=self.backend, strategy=self.search.strategy, schema=self.search.schema,
                budget=self.search.budget, seed=self.search.seed, sample_id=content_id(prompt, dataset),
            )  # fmt: skip
        except (PromptError, ImageError) as error:
            return {"prediction": f"{FAILED} {error}", "extra_records": {"error": str(error)}}
        return {"prediction": result.answer, "extra_records": record(result)}


def content_id(prompt: Prompt, dataset: str | None) -> str:
    """A sample id from what is asked, since the harness does not say which row it asks."""
    content = (dataset, prompt.question, [p.digest for p in prompt.images], [(m.role, m.text) for m in prompt.history])
    return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def record(result: Result) -> dict[str, Any]:
    """What the harness keeps beside the prediction, ready for JSON: stages, and the cost of the whole search by part."""
    return {
        "stages": result.stages,
        "usage": result.usage.as_dict(),
        "usage_by_part": {part: usage.as_dict() for part, usage in result.usage_by_part.items()},
        "candidates": len(result.draws),
        "seed": result.seed,
        "stopped_by": result.stopped_by,
    }


def register(name: str = "structdecode", **arguments: Any) -> None:
    """Makes the class known to VLMEvalKit (for ``--config``), and a model with these arguments (for ``--model``).

    Raises:
        ConfigError: VLMEvalKit is not installed.
    """
    if _Model is None:
        raise ConfigError(_MISSING)
    import vlmeval.config
    import vlmeval.vlm

    vlmeval.vlm.StructDecode = StructDecode
    vlmeval.config.supported_VLM[name] = partial(StructDecode, **arguments)


def run() -> None:
    """VLMEvalKit's own command line, with the class known to it.

    Raises:
        ConfigError: VLMEvalKit is not installed, or it is a checkout and this is not its folder.
    """
    register()
    try:
        from vlmeval.run import load_env, main
    except ImportError:
        if not Path("run.py").is_file():
            raise ConfigError("no vlmeval.run and no run.py here: start it in the folder of VLMEvalKit") from None
        runpy.run_path("run.py", run_name="__main__")
    else:
        load_env()
        main()


if __name__ == "__main__":
    from structdecode.integrations import vlmevalkit  # this file again, under the name that its class goes by

    try:
        vlmevalkit.run()
    except StructdecodeError as mistake:
        print(f"structdecode: {mistake}", file=sys.stderr)
        raise SystemExit(2) from None
