"""Runs lm-eval's own `hf-multimodal` on slake_bench; writes seconds and texts as JSON.

python lm_eval_driver.py MODEL TASKS_FOLDER MIN_PIXELS MAX_PIXELS BATCH OUT
"""

import json
import sys
import time
from pathlib import Path

from lm_eval import evaluator
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.tasks import TaskManager

model, tasks, low, high, batch, out = sys.argv[1:]
real = HFMultimodalLM.generate_until
seconds = []


def timed(self, requests, disable_tqdm=False):
    start = time.perf_counter()
    result = real(self, requests, disable_tqdm=disable_tqdm)
    seconds.append(time.perf_counter() - start)
    return result


HFMultimodalLM.generate_until = timed
done = evaluator.simple_evaluate(
    model="hf-multimodal",
    model_args={"pretrained": model, "dtype": "float32", "max_images": 1, "min_pixels": int(low), "max_pixels": int(high)},
    tasks=["slake_bench"],
    task_manager=TaskManager(include_path=tasks, include_defaults=False),
    batch_size=int(batch),
    device="cpu",
    apply_chat_template=True,
    log_samples=True,
    bootstrap_iters=0,
)
texts = {str(r["doc"]["id"]): r["resps"][0][0] for r in done["samples"]["slake_bench"]}
Path(out).write_text(json.dumps({"generation_s": sum(seconds), "texts": texts}))
