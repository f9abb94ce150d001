"""Runs lmms-eval's own `qwen2_vl` on slake_bench, in lmms-eval's own environment; writes seconds and texts as JSON.

python lmms_eval_driver.py MODEL TASKS_FOLDER MIN_PIXELS MAX_PIXELS BATCH OUT
"""

import json
import sys
import time
from pathlib import Path

from lmms_eval import evaluator
from lmms_eval.models.simple.qwen2_vl import Qwen2_VL
from lmms_eval.tasks import TaskManager

model, tasks, low, high, batch, out = sys.argv[1:]
real = Qwen2_VL.generate_until
seconds = []


def timed(self, requests):
    start = time.perf_counter()
    result = real(self, requests)
    seconds.append(time.perf_counter() - start)
    return result


Qwen2_VL.generate_until = timed
done = evaluator.simple_evaluate(
    model="qwen2_vl",
    model_args=f"pretrained={model},min_pixels={low},max_pixels={high},device_map=cpu",
    tasks=["slake_bench"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False),
    batch_size=int(batch),
    device="cpu",
    log_samples=True,
    bootstrap_iters=0,
)
rows = done["samples"]["slake_bench"]
texts = {str(r["doc_id"]): r["filtered_resps"][0] if isinstance(r["filtered_resps"], list) else r["filtered_resps"] for r in rows}
Path(out).write_text(json.dumps({"generation_s": sum(seconds), "texts": texts}))
