"""Task YAMLs: what is wrong is said with file:line, the key and the nearest valid name; names, patterns and groups."""

import json
from pathlib import Path
from typing import get_args

import pytest

from harness import specs
from harness.errors import SpecError, UserError
from harness.scoring.aggregates import AGGREGATES
from harness.scoring.metrics import METRICS

GOOD = """\
name: my_task
title: My task
license: CC0-1.0
local:
  folder: mine
  layout: slake
  splits: {test: test}
"""


def parse(text: str):
    return specs.parse(text, Path("my_task.yaml"))


def test_good():
    spec = parse(GOOD)
    assert (spec.name, spec.split, spec.prompt, spec.may_leave_machine) == ("my_task", "test", "reasoning", False)
    assert (spec.metrics, spec.aggregate, spec.slices) == (["exact_match", "token_f1"], None, ["form", "question_word"])
    assert spec.splits == ["test"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (GOOD + "splitt: train\n", "my_task.yaml:8: unknown key 'splitt'", "did you mean 'split'?"),
        (GOOD.replace("license: CC0-1.0\n", ""), "my_task.yaml:1: key 'license' is missing", None),
        (GOOD + "max_new_tokens: many\n", "my_task.yaml:8: key 'max_new_tokens'", None),
        (GOOD + "max_new_tokens: 0\n", "my_task.yaml:8: key 'max_new_tokens'", None),
        (
            GOOD + "prompt: resoning\n",
            "my_task.yaml:8: key 'prompt': prompt 'resoning' is unknown; did you mean 'reasoning'?",
            None,
        ),
        (GOOD + "split: validation\n", "my_task.yaml:8: key 'split': split 'validation' is not among splits", None),
        (
            GOOD + "bundled: {folder: ../../etc, resolution: x}\n",
            ":8: key 'bundled.folder': '../../etc' leaves",
            None,
        ),
        (GOOD.replace("mine", "/etc"), "my_task.yaml:5: key 'local.folder': '/etc' is not a relative path", None),
        (GOOD.replace("{test: test}", '{test: "../x.csv"}'), "my_task.yaml:7: key 'local.splits.test'", None),
        (GOOD + "bundled: {folder: x, resolutoin: y}\n", "unknown key 'bundled.resolutoin'", "did you mean 'resolution'?"),
        (
            GOOD + "  columns:\n    qestion: q\n",
            ":9: unknown key 'local.columns.qestion'",
            "did you mean 'question'?",
        ),
        (GOOD + "  columns: {answer_as: letters}\n", "my_task.yaml:8: key 'local.columns.answer_as'", "did you mean 'letter'?"),
        (GOOD + "hub: {repo: nowhere, splits: {test: x}}\n", "my_task.yaml:8: key 'hub.repo'", None),
        (GOOD + "metrics: [exact_mach]\n", "my_task.yaml:8: key 'metrics.0'", "did you mean 'exact_match'?"),
        (GOOD + "aggregate: cv_bensh\n", "my_task.yaml:8: key 'aggregate'", "did you mean 'cv_bench'?"),
        (GOOD[: GOOD.index("local")] + "split: test\n", "my_task.yaml:4: key 'split': the task names no data", None),
        (GOOD + "description: !!python/object/apply:os.system [ls]\n", "not allowed", None),
        (GOOD + "description: !function utils.f\n", "YAML tag !function is not allowed", None),
        (GOOD + "a: [1\n", "not valid YAML", None),
        (GOOD + "name: twice\n", "my_task.yaml:8: not valid YAML", None),
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


def test_a_task_without_data_is_refused():
    with pytest.raises(SpecError, match="names no data"):
        parse(GOOD[: GOOD.index("local")])


def test_everything_that_is_wrong_is_said():
    with pytest.raises(SpecError) as e:
        parse("name: My Task\ntitel: My task\nlicense: CC0-1.0\nlocal: {splits: {test: rows.csv}}\nmax_new_tokens: x\n")
    lines = str(e.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == ["my_task.yaml:2", "my_task.yaml:1", "my_task.yaml:1", "my_task.yaml:5"]
    assert e.value.hint == "did you mean 'title'?"


def test_alias_bomb_is_refused():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(SpecError, match="more than 10,000 values"):
        parse(GOOD + bomb)


def test_own_prompt():
    spec = parse(GOOD + "prompts: {mine: 'Look. {question}'}\nprompt: mine\n")
    assert spec.get_prompt().render("Why?") == "Look. Why?"
    assert spec.get_prompt("question").render("Why?") == "Why?"
    with pytest.raises(UserError, match="no prompt named 'reasning'") as e:
        spec.get_prompt("reasning")
    assert e.value.hint == "did you mean 'reasoning'?"


def test_columns_in_short_and_in_full():
    short = parse(GOOD + "  columns: {image: a, answer: b, slices: [c]}\n").local.columns
    full = parse(GOOD + "  columns: {image: [a], answer: [b], slices: {c: c}}\n").local.columns
    assert short == full
    assert parse(GOOD + "  columns: {slices: {organ: location}}\n").slices == ["organ", "form", "question_word"]


def test_catalog_is_valid_and_names_match_files():
    found = {name: specs.read(path) for name, path in specs.catalog().items()}
    assert found.keys() >= {"silvar_med", "slake", "slake_grounded", "vqa_rad", "vqa_med_2019", "path_vqa", "cv_bench"}
    for name, spec in found.items():
        assert spec.name == name
        assert spec.local
        # a commit that was never loaded is pinned only where others published that they read it, and then the spec says so
        revision = spec.hub and spec.hub.revision
        assert revision is None or (len(revision) == 40 and not spec.verified)
        assert spec.slices
    for name, path in specs.groups().items():
        assert specs.read_group(path).group == name
    assert not specs.groups().keys() & specs.catalog().keys()


def test_metrics_and_aggregates_are_those_that_exist():
    assert set(get_args(specs.Metric)) == set(METRICS)
    field = specs.TaskSpec.model_fields["aggregate"].annotation
    assert {a for arg in get_args(field) for a in get_args(arg)} == set(AGGREGATES)


def test_the_published_schema_is_current():
    """`harness tasks schema > docs/task.schema.json` after a change of the spec."""
    published = Path(__file__).parents[1] / "docs" / "task.schema.json"
    assert published.read_text() == specs.schema()


def test_the_schema_accepts_what_the_model_does():
    import jsonschema
    from ruamel.yaml import YAML

    schema = json.loads(specs.schema())
    for path in specs.catalog().values():
        jsonschema.validate(YAML(typ="safe").load(path.read_text()), schema)
    with pytest.raises(jsonschema.ValidationError, match="titel"):
        jsonschema.validate(YAML(typ="safe").load(GOOD.replace("title", "titel")), schema)
    described = schema["$defs"]["Columns"]["properties"]
    assert all("description" in described[k] for k in ("image", "choices", "slices"))


# -- names -----------------------------------------------------------------------------------------------------------


def names(text):
    return [spec.name for spec, _ in specs.find(text)]


def test_names_patterns_and_groups():
    assert names("vqa_rad, slake") == ["vqa_rad", "slake"]
    assert names("slake*") == ["slake", "slake_bilingual", "slake_grounded", "slake_zh"]
    assert names("pathology") == ["path_vqa", "pathmmu", "quilt_vqa", "microvqa"]
    assert names("medical")[:5] == ["silvar_med", "slake", "vqa_rad", "vqa_med_2019", "path_vqa"]
    assert names("paper") == ["cv_bench", "silvar_med", "slake", "vqa_rad", "vqa_med_2019", "path_vqa"]
    assert names("slake,pathology,slake*")[:3] == ["slake", "path_vqa", "pathmmu"]
    assert names("slake,pathology,slake*")[5:] == ["slake_bilingual", "slake_grounded", "slake_zh"]


def test_own_groups(tmp_path):
    (tmp_path / "mine.yaml").write_text(GOOD.replace("my_task", "mine"))
    group = tmp_path / "group.yaml"
    group.write_text("group: ours\ntasks: [mine.yaml, 'vqa_r*', medical]\n")
    assert names(str(group))[:2] == ["mine", "vqa_rad"]
    for tasks, message in [
        ("[slak]", r"group\.yaml: no task named 'slak'"),
        ("[group.yaml]", "the group contains itself"),
        ("[../mine.yaml]", r"task '\.\./mine\.yaml' leaves its root"),
        ("[/mine.yaml]", "is not a relative path"),
        ("[]", r"group\.yaml:2: key 'tasks'"),
        ("[a]\ntask: b", r"group\.yaml:3: unknown key 'task'"),
    ]:
        group.write_text(f"group: ours\ntasks: {tasks}\n")
        with pytest.raises(UserError, match=message):
            specs.find(str(group))


def test_a_groups_links_stay_in_its_folder(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (tmp_path / "outside.yaml").write_text(GOOD)
    (own / "link.yaml").symlink_to("../outside.yaml")
    (own / "group.yaml").write_text("group: ours\ntasks: [link.yaml]\n")
    with pytest.raises(UserError, match=r"group\.yaml: task 'link\.yaml' is a link that leads out"):
        specs.find(str(own / "group.yaml"))
    assert names(str(own / "link.yaml")) == ["my_task"]  # whoever names a path themselves means it


def test_a_name_stands_for_one_task(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(GOOD)
    with pytest.raises(UserError, match=r"a\.yaml and .*b\.yaml: two tasks named 'my_task'"):
        specs.find(f"{tmp_path}/a.yaml,{tmp_path}/b.yaml")


def test_unknown_task():
    with pytest.raises(UserError, match="no task named 'slak'") as e:
        specs.find("slak")
    assert e.value.hint == "did you mean 'slake'?"
    with pytest.raises(UserError, match="no task named 'medicl'") as e:
        specs.find("medicl")
    assert e.value.hint == "did you mean 'medical'?"
    with pytest.raises(UserError, match=r"no task matches 'x\*'"):
        specs.find("x*")
    with pytest.raises(UserError, match="no such task file"):
        specs.find("nowhere.yaml")
    with pytest.raises(UserError, match="names no task"):
        specs.find(" , ")
