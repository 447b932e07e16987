"""structdecode as a model of lmms-eval (0.7 and later), found by its entry point:

``python -m lmms_eval --model structdecode --model_args pretrained=...,strategy=stage-beam,verifier=log-prob,seed=0 ...``

Strategy and seed are model arguments because lmms-eval keys its response cache on them.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from structdecode.core.errors import ConfigError, MissingExtraError
from structdecode.core.types import Prompt
from structdecode.integrations.batch import Answer, BatchItem, answer_all
from structdecode.integrations.messages import prompt_from_messages
from structdecode.integrations.search import Search, token_counts, with_generation_arguments

try:
    from lmms_eval.api.model import lmms as _Model
except ModuleNotFoundError as missing:  # the module can be read and documented without the harness
    if missing.name != "lmms_eval":  # it is there, but something that it needs is not: that is to be seen
        raise
    _Model = None

_log = logging.getLogger(__name__)
_BUDGET_EXCEEDED = "the harness's token budget is spent"


def manifest() -> Any:
    """The entry point in group ``lmms_eval.models``: a `ModelManifest`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("structdecode", chat_class_path=f"{__name__}.StructDecode")


class StructDecode(_Model or object):  # type: ignore[misc]
    """Answers with a search. All questions are in flight at once, whatever the harness's batch size.

    Args:
        pretrained: checkpoint directory, hub name, or ``pocket``, the embedded model.
        batch_size, max_batch_size: the harness's; left aside, ``concurrency`` among the arguments is ours.
        device: as `--device`; default: this process's.
        arguments: see `Search.from_arguments`.

    Raises:
        MissingExtraError: lmms-eval is not installed.
        ConfigError: an argument is unknown or wrong.
        ModelError: the checkpoint cannot be loaded.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "pocket",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        **arguments: Any,
    ) -> None:
        if _Model is None:
            raise MissingExtraError("lmms-eval", "lmms-eval")
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import Accelerator

            self.accelerator = Accelerator()
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            device = device or str(self.accelerator.device)
        self.search = Search.from_arguments({"pretrained": pretrained, "device": device, **arguments})
        self.device = device or "cpu"
        self.backend: Any = self.search.load_backend()

    def generate_until(self, requests: Sequence[Any]) -> list[Any]:
        """A `GenerationResult` for each `Instance`, in order, with the tokens of its whole search.

        A question that cannot be asked (a broken picture, a prompt beyond the model's context) gets an empty answer and a
        warning that names it.

        Raises:
            ConfigError: the task's ``gen_kwargs`` are wrong, or it shows videos or plays sounds.
        """
        from lmms_eval.api.instance import GenerationResult, TokenCounts
        from lmms_eval.models.model_utils.usage_metrics import is_budget_exceeded, log_usage
        from tqdm import tqdm  # type: ignore[import-untyped]

        items = items_of([request.args for request in requests], self.task_dict, self.search)
        with tqdm(total=len(items), disable=self.rank != 0, desc="structdecode") as bar:

            def finished(item: BatchItem, answer: Answer) -> None:
                bar.update()
                if answer.error and answer.error != _BUDGET_EXCEEDED:
                    _log.warning("%s: not asked: %s", item.sample_id, answer.error)
                if answer.result is not None:
                    task, _, _ = item.sample_id.rpartition("/")
                    log_usage(self.backend.name, task, **token_counts(answer.result))

            answers = answer_all(
                items, self.search, self.backend, finished=finished,
                skip=lambda: _BUDGET_EXCEEDED if is_budget_exceeded() else "",
            )  # fmt: skip
        # Their totals add reasoning tokens to output tokens; all of ours are output, so that none counts twice.
        return [
            GenerationResult(a.text, TokenCounts(**token_counts(a.result)) if a.result is not None else TokenCounts())
            for a in answers
        ]

    def loglikelihood(self, requests: Sequence[Any]) -> NoReturn:
        """Raises ConfigError: a search gives answers; it has no likelihood of a text that somebody else wrote."""
        raise ConfigError(
            "loglikelihood tasks rate given texts, which no search changes: choose a task with output_type generate_until"
        )

    def generate_until_multi_round(self, requests: Sequence[Any]) -> NoReturn:
        """Raises ConfigError."""
        raise ConfigError("generate_until_multi_round is not supported: choose a task with output_type generate_until")

    def clean(self) -> None:
        """Called by the harness when the last request is done: lets the model go, for a judge to take its place."""
        self.backend = None
        super().clean()


def items_of(
    arguments: Sequence[tuple[Any, ...]], documents: Mapping[str, Mapping[str, Any]], search: Search
) -> list[BatchItem]:
    """Jobs from `Instance.args`, each ``(ctx, doc_to_messages, gen_kwargs, doc_id, task, split)``.

    Args:
        documents: by task and split, what ``doc_id`` is an index of (the harness's ``task_dict``).

    A sample's id is its task and document, so that it is answered alike in every shard and order. Where a task asks for
    repeats, each repeat has an id of its own, or all would be the same answer.
    """
    asked: Counter[str] = Counter()
    items = []
    for _context, doc_to_messages, gen_kwargs, doc_id, task, split in arguments:
        sample_id = f"{task}/{doc_id}"
        asked[sample_id] += 1
        repeat = f"#{asked[sample_id] - 1}" if asked[sample_id] > 1 else ""
        prompt = _prompt(doc_to_messages, documents[task][split], doc_id)
        schema = with_generation_arguments(search.schema, gen_kwargs or {})
        items.append(BatchItem(sample_id + repeat, prompt, schema, (gen_kwargs or {}).get("until")))
    return items


def _prompt(doc_to_messages: Callable[[Any], Any], documents: Any, doc_id: Any) -> Callable[[], Prompt]:
    return lambda: prompt_from_messages(doc_to_messages(documents[doc_id]))
