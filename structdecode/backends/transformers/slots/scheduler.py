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
from structdecode.backends.transformers.memory import free_memory, out_of_memory
from structdecode.backends.transformers.sampling import draw, token_statistics, uniforms
from structdecode.backends.transformers.slots.forward import Forward, O, Slots
from structdecode.backends.transformers.slots.kv import Pool
from structdecode.backends.transformers.slots.requests import CHUNK, Call, Feed, Request, Steps, Write
from structdecode.backends.transformers.threads import prompt_interpreter, release_team, until_stopped
from structdecode.backends.transformers.twin import Borrowed, changed_midway
from structdecode.backends.transformers.writing import take
from structdecode.core.types import Sampling

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass
class _Job:
    steps: Steps[Any]
    answer: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    wanted: Request = ()
    given_up: bool = False

    def give_up(self) -> None:
        """Nobody waits for the answer any more."""
        self.given_up = True


class Scheduler:
    """Takes requests from any event loop; see the module.

    Args:
        borrowed: the model, looked at for changes when work begins and ends, and when a search opens meanwhile.
        relieve: frees memory that is only kept for later; says whether there was any.
        max_rows: the most rows in one batch.
        look_every: steps after which the tokens are fetched from the device and looked at for stops.
    """

    def __init__(
        self,
        forward: Forward,
        borrowed: Borrowed,
        relieve: Callable[[], bool],
        max_rows: int,
        look_every: int = 1,
    ) -> None:
        self.forward, self.max_rows, self.look_every = forward, max_rows, look_every
        self._borrowed, self._relieve = borrowed, relieve
        self._look_due = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="structdecode-model")
        self._lock = threading.Lock()
        self._inbox: deque[_Job] = deque()
        self._running = False
        self._jobs: list[_Job] = []
        self._answers: list[tuple[_Job, Any, BaseException | None]] = []
        self._calls: deque[Call] = deque()
        self._feeds: deque[Feed] = deque()
        self._waiting: deque[Write] = deque()
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
        job = _Job(steps, loop.create_future(), loop)
        with self._lock:
            self._inbox.append(job)
            start, self._running = not self._running, True
        if start:
            release_team()
            self._worker.submit(self._work)
        return await until_stopped(job.answer, job.give_up)

    # ------------------------------------------------------------------ the loop
    def _work(self) -> None:
        """Works until nothing is open; then once more looks whether the weights are still those it worked with."""
        while True:
            try:
                with torch.inference_mode(), prompt_interpreter():
                    self._look_due = False
                    if self._borrowed.refresh():
                        self._empty()
                    while self._take_in():
                        self._iterate()
                        if self._jobs:
                            self._deliver()
                    if self._answers and self._borrowed.overwritten():
                        self._answers = [(job, None, error or changed_midway()) for job, _, error in self._answers]
            except Exception as error:  # a model that cannot be borrowed: nobody may be left waiting
                self._admit()
                self._fail(model_failure(error))
            release_team()
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
            return bool(self._jobs)  # what came in waits for the model as it is now
        self._admit()
        return bool(self._jobs)

    def _admit(self) -> None:
        with self._lock:
            self._jobs += self._inbox
            self._inbox.clear()

    def _changed(self) -> bool:
        """Whether the model is another than that of the open requests; they fail where its weights were overwritten.

        Where it was switched or configured otherwise they go on with the twin, which was not.
        """
        overwritten = self._borrowed.overwritten()
        if overwritten and self._jobs:
            self._fail(changed_midway())
        changed = overwritten or self._borrowed.restructured()
        self._look_due = changed
        return changed

    def _iterate(self) -> None:
        for job in list(self._jobs):
            if all(item.done for item in job.wanted):
                self._advance(job)
            if job.given_up:
                self._drop(job)
        try:
            self._call()
            self._feed_chunk()
            self._decode_step()
        except Exception as error:  # the model itself failed: every open request was part of the batch
            if out_of_memory(error) and self._shrink():
                return
            self._fail(model_failure(error))

    def _advance(self, job: _Job) -> None:
        try:
            job.wanted = job.steps.send(None)
        except StopIteration as stop:
            return self._end(job, stop.value, None)
        except Exception as error:  # the request's own: a spent budget, a refused prompt
            return self._end(job, None, model_failure(error))
        for item in job.wanted:
            if isinstance(item, Call):
                self._calls.append(item)
            elif isinstance(item, Feed):
                self._feeds.append(item)
            else:
                self._waiting.append(item)

    @staticmethod
    def _drop(job: _Job) -> None:
        """Its rows end with the next step; a prompt under way is finished, as others may wait for it."""
        for item in job.wanted:
            if isinstance(item, Write):
                item.writing.done = True

    def _end(self, job: _Job, value: Any, error: BaseException | None) -> None:
        job.steps.close()
        self._jobs.remove(job)
        self._answers.append((job, value, error))

    def _deliver(self) -> None:
        for job, value, error in self._answers:
            try:
                job.loop.call_soon_threadsafe(_settle, job.answer, value, error)
            except RuntimeError:  # the event loop that asked is closed
                log.debug("nobody waits for an answer any more")
        self._answers.clear()

    def _shrink(self) -> bool:
        """Half the rows at a time from now on; all of them start again, and write what they would have written.

        Where there is but one row, kept prompts go instead; False where there are none either.
        """
        feeds = list(self._feeding.rows) if self._feeding is not None else []
        writes = list(self._writing.rows) if self._writing is not None else []
        rows = max(len(feeds), len(writes))
        if rows < 2:
            return self._relieve()
        self.max_rows = max(1, min(self.max_rows, rows) // 2)
        log.warning("out of memory with %d rows in a batch: going on with up to %d", rows, self.max_rows)
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
        for row in self._writing.rows if self._writing is not None else ():
            row.charge()
        for job in list(self._jobs):
            self._end(job, None, error)
        self._calls.clear()
        self._feeds.clear()
        self._waiting.clear()
        self._empty()

    def _empty(self) -> None:
        """Frees all slots, and what was computed for the rows in them."""
        self.forward.forget()
        self._feeding: Slots[Feed] | None = None
        self._writing: Slots[Write] | None = None
        self._last: tuple[Tensor, list[Write]] = torch.empty(0), []

    # ------------------------------------------------------------------ one iteration's work
    def _call(self) -> None:
        """Prompts come first while there is room for their rows; else one between two steps."""
        while self._calls:
            call = self._calls[0]
            call.result, call.done = call.work(), True
            self._calls.popleft()
            if self._writing is not None and len(self._writing.rows) >= self.max_rows // 2:
                return

    def _feed_chunk(self) -> None:
        """Rows of about one length at a time, until so many tokens are computed that decoding should go on."""
        computed = 0
        while computed < CHUNK:
            slots = self._feeding = _opened(self._feeding, self._feeds)
            if slots is None or not self._fill_alike(slots):
                return
            computed += self._feed_rows(slots)

    def _fill_alike(self, slots: Slots[Feed]) -> bool:
        """Lets in what is not much shorter or longer than what is in: padding is computed too."""
        for _ in range(len(self._feeds)):
            feed = self._feeds[0]
            if (not slots.rows or slots.rows[0].like(feed)) and self._has_room(slots, feed):
                slots.add(feed)
                self._feeds.popleft()
            else:
                self._feeds.rotate(-1)
        return bool(slots.rows)

    def _feed_rows(self, slots: Slots[Feed]) -> int:
        """The next chunk of each row; how many tokens that were."""
        rows = list(slots.rows)
        longest = max(feed.chunk for feed in rows)
        for feed in rows:
            feed.aim(longest)
        tokens = [feed.tokens[feed.fed : feed.fed + feed.chunk] for feed in rows]
        every = any(feed.every for feed in rows)
        logits = self.forward(slots, tokens, every=every)  # [n, T or 1, V]
        for index, (feed, chunk) in enumerate(zip(rows, tokens, strict=True)):
            feed.fed += len(chunk)
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
        slots = self._writing = _opened(self._writing, self._waiting)
        if slots is None or not self._fill(slots):
            return
        for row in slots.rows:
            row.writing.done |= row.writing.request.late or self.forward.room(row) <= 0
        self._retire(slots)
        if not slots.rows:
            return
        last = self._decode_unseen(slots)
        for row in slots.rows:
            row.writing.done |= row.writing.sampled >= row.writing.row.max_tokens
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

    def _decode_unseen(self, slots: Slots[Write]) -> Tensor:
        """Draws ``look_every`` tokens a row (fewer at a limit) before anybody looks at them. The last ones, [n].

        What a row has drawn behind its stop is ignored when they are looked at, and not kept.
        """
        rows, logits = slots.rows, self._logits(slots.rows)
        steps = min(self.look_every, *(min(row.tokens_left, self.forward.room(row)) for row in rows))
        if not all(row.writing.free for row in rows):
            steps = 1
        uniform = uniforms([row.generator for row in rows], steps, logits.device)  # [n, steps]
        drawn: list[tuple[Tensor, ...]] = []
        for step in range(steps):
            if step:
                logits = self.forward.step(slots, drawn[-1][0]).float()
            tokens, proposals = self._draw(rows, constrained([row.writing for row in rows], logits), uniform[:, step])
            drawn.append((tokens, proposals, *token_statistics(logits, tokens)))
        take([row.writing for row in rows], *(torch.stack(each) for each in zip(*drawn, strict=True)))
        return drawn[-1][0]

    def _logits(self, rows: Sequence[Write]) -> Tensor:
        """Behind each row's last token. [n, V], float32"""
        logits, after = self._last
        if len(after) != len(rows) or any(a is not b for a, b in zip(after, rows, strict=True)):
            logits = torch.stack([row.logits for row in rows if row.logits is not None])
        return logits.float()

    def _fill(self, slots: Slots[Write]) -> bool:
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
    def _retire(slots: Slots[Write]) -> None:
        for index in reversed(range(len(slots.rows))):
            row = slots.rows[index]
            if row.writing.done:
                row.charge()
                row.result = slots.grown(index, None, keep=max(0, len(row.writing.ids) - 1))
                slots.remove(index)

    @staticmethod
    def _draw(rows: Sequence[Write], logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        by_sampling: dict[Sampling, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            by_sampling[row.writing.request.sampling].append(index)
        if len(by_sampling) == 1:
            return draw(logits, rows[0].writing.request.sampling, uniform)
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
