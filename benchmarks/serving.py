"""Stage beam over many questions on a serving engine beside ours: ``python -m benchmarks.serving --vllm-python PATH``.

The engine is vLLM's CPU build behind its OpenAI API, prefix caching on, all questions in flight at once, one
request a stage with ``n`` candidates, chosen by their log-probabilities. Same random Idefics3 in float32, same
pictures, same number of tokens. PATH is the Python of an environment that holds vLLM; here the ``openai`` extra is needed. Adds to results/cpu.json.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from openai import AsyncOpenAI

import structdecode as sd
from benchmarks import models, speed
from structdecode.core.settings import build

QUESTIONS, N, TOKENS = 32, 8, 32


@contextmanager
def server(python: str, checkpoint: Path, log: Path) -> Iterator[str]:
    """Starts vLLM on a free port; the base address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TORCHDYNAMO_DISABLE": "1"}
    command = [
        python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint), "--served-model-name", "tiny",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "1024", "--enforce-eager", "--block-size", "32",
        "--dtype", "float32", "--max-num-seqs", "256",
    ]  # fmt: skip
    environment = {**os.environ, **quiet, "VLLM_CPU_KVCACHE_SPACE": "4", "VLLM_CACHE_ROOT": str(log.parent)}
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            if process.poll() is not None:
                raise SystemExit(f"vLLM did not start:\n{log.read_text()[-3000:]}")
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


async def over_http(address: str, bench: speed.Bench, prompts: list[sd.Prompt]) -> int:
    """Stage beam with log-probability; how many tokens were generated."""
    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=600) as client:
        return sum(await asyncio.gather(*(_question(client, bench, prompt) for prompt in prompts)))


async def _question(client: AsyncOpenAI, bench: speed.Bench, prompt: sd.Prompt) -> int:
    buffer = io.BytesIO()
    prompt.images[0].image.save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    content: Any = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt.question}]
    written, generated = "", 0
    for stage in bench.schema.stages:
        written += stage.begin
        reply = await client.chat.completions.create(
            model="tiny", n=N, max_tokens=TOKENS, temperature=1.0, logprobs=True,
            messages=[{"role": "user", "content": content},
                      {"role": "assistant", "content": [{"type": "text", "text": written}]}],
            extra_body={"min_tokens": TOKENS, "ignore_eos": True,
                        "add_generation_prompt": False, "continue_final_message": True},
        )  # fmt: skip
        choices: list[Any] = reply.choices
        generated += sum(len(choice.logprobs.content) for choice in choices)
        best = max(choices, key=lambda c: sum(t.logprob for t in c.logprobs.content))
        written += best.message.content
    return generated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    bench = speed.Bench(models.idefics3(), tokens=TOKENS)
    prompts = [sd.Prompt(f"{speed.QUESTION} {i}", speed.picture(i, tiles=1)) for i in range(QUESTIONS)]
    strategy = build("strategies", "stage-beam", {"candidates": N, "temperature": 1.0})

    async def here() -> int:
        options: dict[str, Any] = {"schema": bench.schema, "strategy": strategy, "concurrency": QUESTIONS}
        return sum(
            [r.usage.generated_tokens async for _, r in sd.decode_many(prompts, backend=bench.backend, **options)]
        )

    def ours() -> int:
        bench.backend.prefixes.clear()
        return asyncio.run(here())

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model"
        bench.backend.model.save_pretrained(checkpoint)
        bench.backend.processor.save_pretrained(checkpoint)
        with server(arguments.vllm_python, checkpoint, Path(folder) / "server.log") as address:
            counts = (asyncio.run(over_http(address, bench, prompts)), ours())
            assert counts[0] == counts[1] == QUESTIONS * N * TOKENS * len(bench.schema.stages), counts
            seconds = speed.interleaved(
                {"vllm": lambda: asyncio.run(over_http(address, bench, prompts)), "ours": ours}, arguments.rounds
            )
    report = json.loads((speed.RESULTS / "cpu.json").read_text())
    found = speed.ratio(seconds["vllm"], seconds["ours"])
    report["ratios"]["vllm_cpu_over_ours.stage_beam.n8"] = found
    report["seconds"]["vllm.stage_beam.n8"] = seconds["vllm"]
    report["seconds"]["ours.idefics3.stage_beam.n8"] = seconds["ours"]
    (speed.RESULTS / "cpu.json").write_text(json.dumps(report, indent=1) + "\n")
    print("vLLM / ours: {median:.2f} ({min:.2f} to {max:.2f})".format(**found))


if __name__ == "__main__":
    main()
