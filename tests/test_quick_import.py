"""A model loads quickly, and torch's compiler is whole afterwards."""

import resource
import subprocess
import sys

import pytest

LOAD = """
import sys
from harness.models.quick_import import quickly
with quickly():
    from harness.models.transformers_model import TransformersModel
    model = TransformersModel("tiny", device="cpu")
    {extra}
import torch, torchvision
from transformers.utils import is_scipy_available
print("torch._dynamo" in sys.modules, model.why_plain)
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist(), is_scipy_available())
print(tuple(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), [torch.tensor([[0.0, 0.0, 2.0, 2.0]])], 1).shape))
"""


@pytest.mark.parametrize(
    ("extra", "there"),
    [
        ("pass", False),  # nothing of the compiler was imported
        ("import torch; assert torch._dynamo.is_compiling() is False", True),  # something was asked of it: the real one came
    ],
)
def test_the_compiler_works_afterwards(extra, there):
    code = LOAD.format(extra=extra)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == [f"{there} None", "[2.0, 2.0] True", "(1, 1, 1, 1)"], done.stderr


@pytest.mark.slow
def test_a_small_run_costs_no_more_than_its_imports_and_a_third(tmp_path):
    """In user and system seconds of the processor, the better of three tries each, with compiled bytecode."""

    def cost(*words) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    run = ["-m", "harness", "run", "--model", "tiny", "--tasks", "slake", "--limit", "8", "--quiet", "--runs"]
    imports = min(cost("-c", "import torch; from transformers import Qwen2VLForConditionalGeneration") for _ in range(3))
    assert min(cost(*run, str(tmp_path / str(n))) for n in range(3)) <= 1.3 * imports
