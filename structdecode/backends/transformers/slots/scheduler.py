"""Decodes the open rows of all open requests in one batch, a slot each; a slot that falls free is filled at once.

A request is a generator that yields what it needs (tokens to feed, rows to write, a call of the model) and is
sent on when it is there. One iteration of the loop: let the requests say what they want, run one chunk of prompt
tokens, then one decoding step for every row. Everything here happens in the backend's one worker thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from structdecode.backends.transformers.constraints import constrained
from structdecode.backends.transformers.failures import model_failure
from structdecode.backends.transformers.hidden import at_end
from structdecode.backends.transformers.memory import free_memory, out_of_memory
from structdecode.backends.transformers.sampling import draw, token_statistics, uniforms
from structdecode.backends.transformers.sequences import take
from structdecode.backends.transformers.slots.forward import Forward, O, Slots
from structdecode.backends.transformers.slots.kv import Pool
from structdecode.backends.transformers.slots.requests import CHUNK, DecodeRow, ModelCall, ModelWork, PrefillRow, Steps
from structdecode.backends.transformers.threads import release_openmp_threads, short_switch_interval, until_stopped
from structdecode.backends.transformers.twin import Borrowed, changed_midway
from structdecode.core.types import Sampling

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class _Scheduled:
    steps: Steps[Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    wanted: ModelWork = ()
    given_up: bool = False

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.given_up = True


class Scheduler:
    """Takes requests from any event loop; see the module.

    Args:
        borrowed: the model, looked at for changes when work begins and ends, and when a search opens meanwhile.
        evict_caches: frees memory that is only kept for later; says whether there was any.
        max_rows: the most rows in one batch.
        sync_interval: steps after which the tokens are fetched from the device and looked at for stops.
    """

    def __init__(
        self,
        forward: Forward,
        borrowed: Borrowed,
        evict_caches: Callable[[], bool],
        max_rows: int,
        sync_interval: int = 1,
    ) -> None:
        self.forward, self.max_rows, self.sync_interval = forward, max_rows, sync_interval
        self._borrowed, self._evict_caches = borrowed, evict_caches
        self._look_due = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="structdecode-model")
        self._lock = threading.Lock()
        self._inbox: deque[_Scheduled] = deque()
        self._running = False
        self._scheduled: list[_Scheduled] = []
        self._answers: list[tuple[_Scheduled, Any, BaseException | None]] = []
        self._calls: deque[ModelCall] = deque()
        self._feeds: deque[PrefillRow] = deque()
        self._waiting: deque[DecodeRow] = deque()
        self._empty()

    def close(self) -> None:
        """Waits for the step that runs, and ends the thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def run(self, steps: Steps[T]) -> T:
        """The generator's return value. Cancelled, its rows end with the next step, and so does this.

        Raises:
            ModelError: what the model raises on its work, or the generator on what came of it.
            PromptError, BudgetSpent: the generator's.
        """
        loop = asyncio.get_running_loop()
        scheduled = _Scheduled(steps, loop.create_future(), loop)
        with self._lock:
            self._inbox.append(scheduled)
            start, self._running = not self._running, True
        if start:
            release_openmp_threads()
            self._worker.submit(self._work)
        return await until_stopped(scheduled.answer, scheduled.give_up)

    # ------------------------------------------------------------------ the loop
    def _work(self) -> None:
        """Works until nothing is open; then once more looks whether the weights are still those it worked with."""
        while True:
            try:
                with torch.inference_mode(), short_switch_interval():
                    self._look_due = False
                    if self._borrowed.refresh():
                        self._empty()
                    while self._take_in():
                        self._iterate()
                        if self._scheduled:
                            self._deliver()
                    if self._answers and self._borrowed.overwritten():
                        self._answers = [
                            (scheduled, None, error or changed_midway()) for scheduled, _, error in self._answers
                        ]
            except Exception as error:  # a model that cannot be borrowed: nobody may be left waiting
                self._admit()
                self._fail(model_failure(error))
            release_openmp_threads()
            self._deliver()
            with self._lock:
                if not self._inbox:
                    self._running = False
                    return

    def check_soon(self) -> None:
        """Has the model looked at before the next request is taken in: a search opens."""
        self._look_due = True

    def _take_in(self) -> bool:
        if self._look_due and self._inbox and self._changed():
            return bool(self._scheduled)  # what came in waits for the model as it is now
        self._admit()
        return bool(self._scheduled)

    def _admit(self) -> None:
        with self._lock:
            self._scheduled += self._inbox
            self._inbox.clear()

    def _changed(self) -> bool:
        """Whether the model is another than that of the open requests; they fail where its weights were overwritten.

        Where it was switched or configured otherwise they continue with the twin, which was not.
        """
        overwritten = self._borrowed.overwritten()
        if overwritten and self._scheduled:
            self._fail(changed_midway())
        changed = overwritten or self._borrowed.restructured()
        self._look_due = changed
        return changed

    def _iterate(self) -> None:
        for scheduled in list(self._scheduled):
            if all(item.done for item in scheduled.wanted):
                self._advance(scheduled)
            if scheduled.given_up:
                self._drop(scheduled)
        try:
            self._call()
            self._feed_chunk()
            self._decode_step()
        except Exception as error:  # the model itself failed: every open request was part of the batch
            if out_of_memory(error) and self._shrink():
                return
            self._fail(model_failure(error))

    def _advance(self, scheduled: _Scheduled) -> None:
        try:
            scheduled.wanted = scheduled.steps.send(None)
        except StopIteration as stop:
            return self._end(scheduled, stop.value, None)
        except Exception as error:  # the request's own: a spent budget, a refused prompt
            return self._end(scheduled, None, model_failure(error))
        for item in scheduled.wanted:
            if isinstance(item, ModelCall):
                self._calls.append(item)
            elif isinstance(item, PrefillRow):
                self._feeds.append(item)
            else:
                self._waiting.append(item)

    @staticmethod
    def _drop(scheduled: _Scheduled) -> None:
        """Its rows end with the next step; a prompt under way is finished, as others may wait for it."""
        for item in scheduled.wanted:
            if isinstance(item, DecodeRow):
                item.sequence.done = True

    def _end(self, scheduled: _Scheduled, value: Any, error: BaseException | None) -> None:
        scheduled.steps.close()
        self._scheduled.remove(scheduled)
        self._answers.append((scheduled, value, error))

    def _deliver(self) -> None:
        for scheduled, value, error in self._answers:
            try:
                scheduled.loop.call_soon_threadsafe(_settle, scheduled.answer, value, error)
            except RuntimeError:  # the event loop that asked is closed
                log.debug("nobody waits for an answer any more")
        self._answers.clear()

    def _shrink(self) -> bool:
        """Half the rows at a time from now on; all of them start again, and write what they would have written.

        One that is alone may have met the end of memory as the next came in: from now on it is alone for good. Where it was
        already, kept prompts go instead; False where there are none either.
        """
        feeds = list(self._feeding.rows) if self._feeding is not None else []
        writes = list(self._decoding.rows) if self._decoding is not None else []
        rows = max(len(feeds), len(writes))
        if rows == 0 or self.max_rows == 1:
            return self._evict_caches()
        self.max_rows = max(1, min(self.max_rows, rows) // 2)
        log.warning("out of memory with %d rows in a batch: continuing with up to %d", rows, self.max_rows)
        for feed in feeds:
            feed.restart()
        for write in writes:
            write.restart()
        self._feeds.extendleft(reversed(feeds))
        self._waiting.extendleft(reversed(writes))
        self._empty()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def _fail(self, error: Exception) -> None:
        log.warning("a batch failed: %s: %s", type(error).__name__, error)
        for row in self._decoding.rows if self._decoding is not None else ():
            row.charge()
        for scheduled in list(self._scheduled):
            self._end(scheduled, None, error)
        self._calls.clear()
        self._feeds.clear()
        self._waiting.clear()
        self._empty()

    def _empty(self) -> None:
        """Frees all slots, and what was computed for the rows in them."""
        self.forward.forget()
        self._feeding: Slots[PrefillRow] | None = None
        self._decoding: Slots[DecodeRow] | None = None
        self._last: tuple[Tensor, list[DecodeRow]] = torch.empty(0), []

    # ------------------------------------------------------------------ one iteration's work
    def _call(self) -> None:
        """Prompts come first while there is room for their rows; else one between two steps."""
        while self._calls:
            call = self._calls[0]
            call.result, call.done = call.work(), True
            self._calls.popleft()
            if self._decoding is not None and len(self._decoding.rows) >= self.max_rows // 2:
                return

    def _feed_chunk(self) -> None:
        """Rows of about one length at a time, until so many tokens are computed that decoding should continue."""
        computed = 0
        while computed < CHUNK:
            slots = self._feeding = _opened(self._feeding, self._feeds)
            if slots is None or not self._fill_alike(slots):
                return
            computed += self._feed_rows(slots)

    def _fill_alike(self, slots: Slots[PrefillRow]) -> bool:
        """Lets in what is not much shorter or longer than what is in: padding is computed too."""
        for _ in range(len(self._feeds)):
            feed = self._feeds[0]
            if (not slots.rows or slots.rows[0].like(feed)) and self._has_room(slots, feed):
                slots.add(feed)
                self._feeds.popleft()
            else:
                self._feeds.rotate(-1)
        return bool(slots.rows)

    def _feed_rows(self, slots: Slots[PrefillRow]) -> int:
        """The next chunk of each row; how many tokens that were."""
        rows = list(slots.rows)
        longest = max(feed.chunk for feed in rows)
        for feed in rows:
            feed.set_chunk(longest)
        tokens = [feed.tokens[feed.fed : feed.fed + feed.chunk] for feed in rows]
        every = any(feed.every for feed in rows)
        hidden = any(feed.layers for feed in rows)
        logits, states = self.forward(slots, tokens, every=every, hidden=hidden)  # [n, T or 1, V]
        for index, (feed, chunk) in enumerate(zip(rows, tokens, strict=True)):
            feed.fed += len(chunk)
            if feed.layers and feed.fed == len(feed.tokens):
                feed.hidden = at_end(states, feed.layers, index, len(chunk) - 1)
            if feed.every:
                feed.logits.append(logits[index, : len(chunk)])
            elif feed.fed == len(feed.tokens):
                feed.logits.append(logits[index, len(chunk) - 1 : len(chunk)] if every else logits[index])
        for index in reversed(range(len(rows))):
            if rows[index].fed == len(rows[index].tokens):
                rows[index].place = slots.grown(index, rows[index].logits[-1][-1].clone())
                rows[index].done = True
                slots.remove(index)
        return sum(map(len, tokens))

    def _decode_step(self) -> None:
        slots = self._decoding = _opened(self._decoding, self._waiting)
        if slots is None or not self._fill(slots):
            return
        for row in slots.rows:
            row.sequence.done |= row.sequence.request.deadline_passed or self.forward.room(row) <= 0
        self._retire(slots)
        if not slots.rows:
            return
        last = self._decode_unseen(slots)
        for row in slots.rows:
            row.sequence.done |= row.sequence.sampled >= row.sequence.row.max_tokens
        rows = list(slots.rows)
        self._retire(slots)
        if slots.rows:
            if len(rows) != len(slots.rows):
                at = {id(row): index for index, row in enumerate(rows)}
                last = last[[at[id(row)] for row in slots.rows]]
            after = self.forward.step(slots, last)
            for row, row_logits in zip(slots.rows, after, strict=True):
                row.logits = row_logits
            self._last = after, list(slots.rows)

    def _decode_unseen(self, slots: Slots[DecodeRow]) -> Tensor:
        """Draws ``sync_interval`` tokens a row (fewer at a limit) before anybody looks at them. The last ones, [n].

        What a row has drawn behind its stop is ignored when they are looked at, and not kept.
        """
        rows, logits = slots.rows, self._logits(slots.rows)
        steps = min(self.sync_interval, *(min(row.tokens_left, self.forward.room(row)) for row in rows))
        if not all(row.sequence.free for row in rows):
            steps = 1
        uniform = uniforms([row.generator for row in rows], steps, logits.device)  # [n, steps]
        drawn: list[tuple[Tensor, ...]] = []
        for step in range(steps):
            if step:
                logits = self.forward.step(slots, drawn[-1][0]).float()
            tokens, proposals = self._draw(rows, constrained([row.sequence for row in rows], logits), uniform[:, step])
            drawn.append((tokens, proposals, *token_statistics(logits, tokens)))
        take([row.sequence for row in rows], *(torch.stack(each) for each in zip(*drawn, strict=True)))
        return drawn[-1][0]

    def _logits(self, rows: Sequence[DecodeRow]) -> Tensor:
        """Behind each row's last token. [n, V], float32"""
        logits, after = self._last
        if len(after) != len(rows) or any(a is not b for a, b in zip(after, rows, strict=True)):
            logits = torch.stack([row.logits for row in rows if row.logits is not None])
        return logits.float()

    def _fill(self, slots: Slots[DecodeRow]) -> bool:
        """Lets rows in while there is room; whether any are in. One leaves the queue when it is in: that may fail."""
        while self._waiting and self._has_room(slots, self._waiting[0]):
            slots.add(self._waiting[0])
            self._waiting.popleft()
        return bool(slots.rows)

    def _has_room(self, slots: Slots[O], row: O) -> bool:
        """Whether one more row may come in: by number, and by the memory that its slot would take."""
        if not slots.rows:
            return True
        if len(slots.rows) >= self.max_rows:
            return False
        needed, free = slots.growth(row), free_memory(slots.pool.device)
        return free is None or needed < free * 0.9

    @staticmethod
    def _retire(slots: Slots[DecodeRow]) -> None:
        for index in reversed(range(len(slots.rows))):
            row = slots.rows[index]
            if row.sequence.done:
                row.charge()
                row.result = slots.grown(index, None, keep=max(0, len(row.sequence.ids) - 1))
                slots.remove(index)

    @staticmethod
    def _draw(rows: Sequence[DecodeRow], logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        by_sampling: dict[Sampling, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            by_sampling[row.sequence.request.sampling].append(index)
        if len(by_sampling) == 1:
            return draw(logits, rows[0].sequence.request.sampling, uniform)
        tokens, log_probs = logits.new_zeros(len(rows), dtype=torch.long), logits.new_zeros(len(rows))
        for sampling, indices in by_sampling.items():
            tokens[indices], log_probs[indices] = draw(logits[indices], sampling, uniform[indices])
        return tokens, log_probs


def _opened(slots: Slots[O] | None, queue: deque[O]) -> Slots[O] | None:
    """The slots, made when the first row waits for one."""
    return slots if slots is not None or not queue else Slots(Pool(queue[0].place.segment.buffers))


def _settle(answer: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(value)
