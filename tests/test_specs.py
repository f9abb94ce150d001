"""Task YAMLs: what is wrong is said with file:line, the key and the nearest valid name."""

from pathlib import Path

import pytest

from harness import specs
from harness.errors import SpecError, UserError

GOOD = """\
name: my_task
title: My task
license: CC0-1.0
layout: slake
local: mine
splits: {test: test}
"""


def parse(text: str):
    return specs.parse(text, Path("my_task.yaml"))


def test_good():
    spec = parse(GOOD)
    assert (spec.name, spec.split, spec.prompt, spec.may_leave_machine) == ("my_task", "test", "reasoning", False)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (GOOD + "splitt: train\n", "my_task.yaml:7: unknown key 'splitt'", "did you mean 'split'?"),
        (GOOD.replace("license: CC0-1.0\n", ""), "key 'license' is missing", None),
        (GOOD + "max_new_tokens: many\n", "my_task.yaml:7: key 'max_new_tokens'", None),
        (GOOD + "max_new_tokens: 0\n", "my_task.yaml:7: key 'max_new_tokens'", None),
        (GOOD + "prompt: resoning\n", "did you mean 'reasoning'?", None),
        (GOOD + "split: validation\n", "split 'validation' is not among splits", None),
        (GOOD + "bundled: {folder: ../../etc, resolution: x}\n", "leaves its root folder", None),
        (GOOD.replace("mine", "/etc"), "my_task.yaml:5: key 'local': '/etc' leaves its root folder", None),
        (GOOD + "bundled: {folder: x, resolutoin: y}\n", "unknown key 'bundled.resolutoin'", "did you mean 'resolution'?"),
        (GOOD + "description: !!python/object/apply:os.system [ls]\n", "not allowed", None),
        (GOOD + "description: !function utils.f\n", "YAML tag !function is not allowed", None),
        (GOOD + "a: [1\n", "not valid YAML", None),
        (GOOD + "name: twice\n", "my_task.yaml:7: not valid YAML", None),
        ("- a\n- b\n", "expected keys and values", None),
        ("", "expected keys and values", None),
        (GOOD + "prompts: {mine: no question here}\n", "needs exactly one {question}", None),
    ],
)
def test_bad(text, message, hint):
    with pytest.raises(SpecError) as e:
        parse(text)
    assert message in str(e.value)
    assert hint is None or e.value.hint == hint


def test_own_prompt():
    spec = parse(GOOD + "prompts: {mine: 'Look. {question}'}\nprompt: mine\n")
    assert spec.get_prompt().render("Why?") == "Look. Why?"
    assert spec.get_prompt("question").render("Why?") == "Why?"
    with pytest.raises(UserError, match="no prompt named 'reasning'") as e:
        spec.get_prompt("reasning")
    assert e.value.hint == "did you mean 'reasoning'?"


def test_catalog_is_valid_and_names_match_files():
    for name, path in specs.catalog().items():
        assert specs.read(path).name == name


def test_unknown_task():
    with pytest.raises(UserError, match="no task named 'slak'") as e:
        specs.find("slak")
    assert e.value.hint == "did you mean 'slake'?"
    with pytest.raises(UserError, match="no such task file"):
        specs.find("nowhere.yaml")
