"""A model loads quickly, and torch's compiler is whole afterwards."""

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
