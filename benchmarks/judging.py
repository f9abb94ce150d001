"""How fast an LLM judge's verdicts come from a server that takes 200 ms, and from the store. `python -m benchmarks.judging`

1,061 rows (the size of SLAKE's English test split), 64 requests in flight, a server in a process of its own on loopback. The
ideal is rows / 64 x 0.2 s. Importing LiteLLM is measured apart.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.contracts import JudgeOptions
from harness.pipeline import hardware, make_judges
from harness.records import Prediction, Reference, Sample

ROWS, IN_FLIGHT, LATENCY = 1061, 64, 0.2
RESULTS = Path(__file__).parent / "results" / "judging.json"


async def _serve(port: Any) -> None:
    verdict = json.dumps({"evaluation": "as the reference", "prediction_score": 1})
    body = json.dumps(
        {
            "id": "1", "object": "chat.completion", "created": 1, "model": "judge-1",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": verdict}}],
            "usage": {"prompt_tokens": 450, "completion_tokens": 20, "total_tokens": 470},
        }
    ).encode()  # fmt: skip
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
                size = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
                await reader.readexactly(size)
                await asyncio.sleep(LATENCY)
                writer.write(head + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=256)
    port.value = server.sockets[0].getsockname()[1]
    await server.serve_forever()


def serve(port: Any) -> None:
    asyncio.run(_serve(port))


def rows(count: int) -> list[tuple[Sample, Prediction]]:
    """Rows that all differ: nothing is shared."""
    out = []
    for i in range(count):
        sample = Sample(
            id=str(i), images=(), question=f"What is shown in case {i}?", reference=Reference(answers=("lung cancer",))
        )
        text = f"a finding in case {i}"
        prediction = Prediction(
            sample_id=str(i), text=text, reasoning=None, answer=text, finish="stop", prompt_tokens=1, completion_tokens=1
        )
        out.append((sample, prediction))
    return out


def main() -> None:
    port = multiprocessing.Value("i", 0)
    server = multiprocessing.Process(target=serve, args=(port,), daemon=True)
    server.start()
    while not port.value:
        time.sleep(0.01)
    name = f"openai/judge-1@http://127.0.0.1:{port.value}/v1"
    ideal = ROWS / IN_FLIGHT * LATENCY
    found: dict[str, Any] = {"rows": ROWS, "in_flight": IN_FLIGHT, "latency_s": LATENCY, "ideal_s": round(ideal, 2)}
    with tempfile.TemporaryDirectory() as folder:
        options = JudgeOptions(runs=Path(folder), max_in_flight=IN_FLIGHT)
        (judge,) = make_judges(name, options)
        start = time.perf_counter()
        assert judge.client is not None
        found["import_s"] = round(time.perf_counter() - start, 2)
        pairs = rows(ROWS)
        start, cpu = time.perf_counter(), time.process_time()
        verdicts = list(judge.judge(pairs))
        found["judged_s"] = round(time.perf_counter() - start, 2)
        found["judged_cpu_s"] = round(time.process_time() - cpu, 2)
        assert [v.final for v in verdicts].count(1) == ROWS
        (again,) = make_judges(name, options)
        start = time.perf_counter()
        assert len(list(again.judge(pairs))) == ROWS
        found["from_store_s"] = round(time.perf_counter() - start, 3)
        assert again.card()["use"]["from_store"] == ROWS
    server.terminate()
    found |= {"times_ideal": round(found["judged_s"] / ideal, 2), "hardware": hardware(), "python": sys.version.split()[0]}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
