"""What is paid for, once, and what is said where nothing came of it: foreign models, refusals, two processes, damaged stores."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.contracts import JudgeOptions
from harness.errors import JudgeError, ModelError, RunError, UserError
from harness.models.endpoint import Outgoing
from harness.models.usage import Budget
from harness.pipeline import make_judges
from harness.runs import RunFolder, check_writable
from judges.store import VerdictStore
from tests.servers import FaultServer, Says, completion
from tests.test_failures import error
from tests.test_llm_judge import GOOD, judge_of, pairs, quick, served

__all__ = ["quick"]


@pytest.fixture
def faults():
    server = FaultServer()
    server.otherwise = served(GOOD)
    yield server
    server.stop()


def at(server: FaultServer) -> str:
    return f"openai/judge-1@{server.base}"


# -- a judge that cannot judge --------------------------------------------------------------------------------------


def test_another_model_that_answers_is_paid_for_a_few_times_and_not_again(faults, run, command):
    faults.otherwise = served(GOOD, model="gpt-9")
    code, _, err = command("judge", run, "--judge", at(faults))
    assert code == 1
    assert "replies were all no verdicts: answered by another model: gpt-9" in err
    assert "--judge-registry" in err
    assert (first := len(faults.hits)) <= 16
    code, _, err = command("judge", run, "--judge", at(faults))
    assert code == 1
    assert "answered by another model: gpt-9" in err
    assert len(faults.hits) == first  # not one more
    code, _, _ = command("judge", run, "--judge", at(faults), "--ask-again")
    assert code == 1
    assert first < len(faults.hits) <= 2 * first + 8
    # when it is said that this is the judge, what was paid for counts
    registry = run.parent / "mine.yaml"
    registry.write_text(
        f"checked: 2026-01-01\njudges:\n  openai/judge-1: {{model: openai/judge-1, api_base: '{faults.base}', serves: gpt-9}}\n"
    )
    before = len(faults.hits)
    assert command("judge", run, "--judge", "openai/judge-1", "--judge-registry", registry)[0] == 0
    asked = len({json.dumps(h["messages"]) for h in faults.hits})
    assert len(faults.hits) - before == asked - len({json.dumps(h["messages"]) for h in faults.hits[:before]})


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (served(None, finish="stop", refusal="I cannot judge this."), "the judge refused to say"),
        (served("As an AI I will not say."), "the reply is not a JSON object"),
        (served("", finish="content_filter"), "withheld by the vendor's content filter"),
        (served(None, reasoning_content="Let me think"), "an empty reply"),
    ],
)
def test_a_judge_that_refuses_is_stopped_and_its_words_are_kept(faults, tmp_path, reply, why):
    faults.otherwise = reply
    with pytest.raises(JudgeError, match=rf"the first \d+ replies were all no verdicts: {why}"):
        list(judge_of(faults, tmp_path, max_in_flight=64).judge(pairs(300)))
    assert len(faults.hits) <= 16
    kept = list(judge_of(faults, tmp_path).store.read().values())
    assert len(kept) == len(faults.hits)
    message = reply["choices"][0]["message"]
    words = [message.get(k) for k in ("content", "refusal", "reasoning_content") if message.get(k)]
    assert all(w in v.raw for v in kept for w in words)
    with pytest.raises(JudgeError, match="replies were all no verdicts"):
        list(judge_of(faults, tmp_path).judge(pairs(300)))
    assert len(faults.hits) == len(kept)


def test_a_model_that_changes_midway_is_noticed(faults, tmp_path):
    faults.plan = [served(GOOD)] * 40
    faults.otherwise = served(GOOD, model="gpt-9")
    with pytest.raises(JudgeError, match=r"\d+ replies in a row were no verdicts: answered by another model: gpt-9"):
        list(judge_of(faults, tmp_path, max_in_flight=8).judge(pairs(300)))
    assert len(faults.hits) <= 40 + 8 + 8
    faults.otherwise = served("no comment")
    with pytest.raises(JudgeError, match=r"\d+ replies in a row were no verdicts: the reply is not a JSON object"):
        list(judge_of(faults, tmp_path, max_in_flight=8).judge(pairs(300, start=300)))
    assert len(faults.hits) <= 40 + 16 + 32 + 8


def test_missing_verdicts_are_printed_by_reason(faults, run, command):
    seen: Counter[int] = Counter()

    def answer(_: dict) -> object:
        n = seen.total()
        seen[n] += 1
        return served("no comment") if n % 3 == 0 else Says(400, error("too odd")) if n % 7 == 1 else served(GOOD)

    faults.otherwise = answer
    code, out, err = command("judge", run, "--judge", at(faults), "--judge-in-flight", "1")
    assert code == 0
    assert "120 verdicts are missing" in out
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    verdicts = RunFolder(run).verdicts(*next(j for j in RunFolder(run).judges() if j[0] != "exact"))
    reasons = Counter(v.missing for v in verdicts.values() if v.final is None)
    assert len(reasons) == 2
    for reason, count in reasons.items():
        assert [str(count), reason] in lines
    faults.otherwise = served(GOOD)
    code, out, err = command("judge", run, "--judge", at(faults), "--json")
    assert code == 0
    (entry,) = json.loads(out)["missing"]
    assert entry["reasons"] == {"the reply is not a JSON object": entry["missing"]}  # what was not paid for was asked again
    assert f"{entry['missing']} replies from earlier are no verdicts, and were not paid for again (--ask-again)" in err


def test_nothing_judged_is_a_failure(run, command, tmp_path):
    people = tmp_path / "ward.csv"
    people.write_text("sample_id,final\nnobody,1\n")
    code, out, err = command("judge", run, "--judge", f"human:{people}", "--json")
    assert code == 1
    assert "no verdict on any of 120 rows" in err
    (entry,) = json.loads(out)["missing"]
    assert (entry["missing"], entry["rows"], entry["reasons"]) == (120, 120, {"no human verdict": 120})
    assert json.loads(out)["cells"]


# -- before any work ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (401, "401"),
        (Says(429, error("You exceeded your current quota", "insufficient_quota")), "no credit or quota left"),
        (Says(404, error("no such model", "model_not_found")), "model's name"),
        (served(GOOD, model="gpt-9"), "answered by another model: gpt-9"),
        (Says(400, error("'max_tokens' must be at least 4096", param="max_tokens")), "does not take 'max_tokens'"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_known_before_anything_is_generated(faults, tmp_path, command, step, said):
    faults.otherwise = step
    code, _, err = command(
        "run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--limit", "3", "--runs", tmp_path / "runs", "--judge",
        at(faults),
    )  # fmt: skip
    assert code in (1, 2)
    assert said in err
    assert not list((tmp_path / "runs").glob("*/*/predictions.jsonl"))
    assert len(faults.hits) == 1


def test_the_first_row_asked_counts(faults, slake, tmp_path):
    judge = judge_of(faults, tmp_path)
    judge.probe(slake.samples[0])
    judge_of(faults, tmp_path).probe(slake.samples[0])
    assert len(faults.hits) == 1
    assert [v.final for v in judge.store.read().values()] == [1]


@pytest.mark.parametrize("name", ["temperature", "seed", "response_format"])
def test_what_a_server_does_not_take_is_left_away_and_said(faults, tmp_path, name):
    """A schema too: a server of one's own is held to it where it can be."""
    words = {
        "temperature": Says(
            400, error("Unsupported value: 'temperature' does not support 0 with this model.", "unsupported_value")
        ),
        "seed": Says(
            422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs not permitted"}]}
        ),
        "response_format": Says(500, error("structured outputs are not supported by this backend")),
    }
    faults.otherwise = lambda body: words[name] if name in body else served(GOOD)
    judge = judge_of(faults, tmp_path)
    assert [v.final for v in judge.judge(pairs(40))] == [1] * 40
    sent = [h for h in faults.hits if name not in h]
    assert len(sent) == 40
    assert len(faults.hits) <= 48
    card = judge.card()
    assert card["not_taken"] == [name]
    assert card["schema"] is (name != "response_format")
    assert name not in card["parameters"]
    schema = {h["response_format"]["json_schema"]["schema"]["required"][-1] for h in sent if "response_format" in h}
    assert schema == (set() if name == "response_format" else {"prediction_score"})


def test_a_parameter_of_a_registry_file_is_never_left_away(faults, tmp_path):
    registry = tmp_path / "mine.yaml"
    registry.write_text(
        f"checked: 2026-01-01\njudges:\n  ward: {{model: openai/judge-1, api_base: '{faults.base}',"
        " parameters: {temperature: 0}}\n"
    )
    faults.otherwise = Says(400, error("Unsupported value: 'temperature' does not support 0 with this model."))
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry))
    with pytest.raises(ModelError, match="temperature"):
        list(judge.judge(pairs(20)))
    assert len(faults.hits) <= 8


def test_a_vendors_model_without_temperature_is_asked_without_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    for name in ("openai/gpt-5", "openai/o3-mini"):
        (judge,) = make_judges(name, JudgeOptions(runs=tmp_path, allow_external=True))
        notes = judge.prepare([Outgoing("slake", 10, may_leave=True)])
        assert any("takes no temperature, and is asked without" in n for n in notes)
        assert judge.card()["not_taken"] == ["temperature"]


def test_a_place_where_nothing_can_be_kept_is_known_first(faults, run, command, tmp_path):
    (run.parents[1] / ".verdicts").write_text("in the way")
    code, _, err = command("judge", run, "--judge", at(faults))
    assert code == 2
    assert ".verdicts: nothing can be kept there" in err
    assert faults.hits == []
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "runs", Path("/proc/nowhere/runs")):
        with pytest.raises(RunError, match="nothing can be kept there"):
            check_writable(place)
    code, _, err = command(
        "run", "--model", "tiny", "--tasks", "slake", "--data", "bundled", "--limit", "3", "--runs", tmp_path / "file" / "runs"
    )
    assert code == 2
    assert "nothing can be kept there" in err
    check_writable(tmp_path / "not" / "made")
    assert not (tmp_path / "not").exists()


def test_a_full_disk_is_known_first(tmp_path):
    program = (
        "import resource, signal\nfrom pathlib import Path\nfrom harness.runs import check_writable\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"check_writable(Path({str(tmp_path)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "RunError" in done.stderr
    assert "nothing can be kept there: File too large" in done.stderr


def test_an_unknown_price_bounds_nothing(faults, tmp_path):
    (judge,) = make_judges(at(faults), JudgeOptions(runs=tmp_path, budget=Budget(1.0)))
    with pytest.raises(UserError, match=r"price of openai/judge-1 is unknown") as caught:
        judge.prepare([Outgoing("slake", 10, may_leave=True)])
    assert "price: [0, 0]" in caught.value.hint


@pytest.mark.parametrize("outcome", [served(GOOD), 500, "drop", served(None, finish="content_filter"), Says(400, error("no"))])
def test_a_budget_that_is_reached_ends_it_whatever_became_of_the_requests(faults, tmp_path, quick, outcome):
    """64 in flight; what was set aside comes back, and nothing waits for ever."""
    registry = tmp_path / "mine.yaml"
    registry.write_text(
        f"checked: 2026-01-01\njudges:\n  ward: {{model: openai/judge-1, api_base: '{faults.base}', price: [0.1, 0.3]}}\n"
    )
    faults.plan = [served(GOOD)] * 10
    faults.otherwise = outcome
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry))
    budget = Budget(2.5 * 6 * judge._worst(judge._asked(*pairs(1)[0])))
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry, budget=budget, deadline=20))
    start = time.monotonic()
    try:
        found = [*judge.judge(pairs(90))]
        assert len(found) == 90
    except JudgeError:
        pass
    assert time.monotonic() - start < 60
    assert budget.held == 0
    assert budget.spent <= budget.limit


# -- the store ------------------------------------------------------------------------------------------------------


def test_damaged_lines_cost_their_own_verdicts_alone(faults, tmp_path, command):
    judge = judge_of(faults, tmp_path)
    list(judge.judge(pairs(12)))
    lines = judge.store.path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:40] + b"\n"
    lines[3] = b'{"key": "x", "created": "now", "verdict": {"sample_id": 5}}\n'
    lines[5] = b"\xff\xfe\x00 not text\n"
    lines[7] = b"[[[[" * 1000 + b"\n"
    lines[9] = b"x" * 17_000_000 + b"\n"
    judge.store.path.write_bytes(b"".join(lines) + b'{"key": "torn')
    judge = judge_of(faults, tmp_path)
    (note,) = [n for n in judge.prepare([Outgoing("slake", 12, may_leave=True)]) if "damaged" in n]
    assert "5 damaged lines in the store" in note
    assert f"{judge.store.path}:2: " in note
    assert [v.final for v in judge.judge(pairs(12))] == [1] * 12
    assert len(faults.hits) == 17
    assert list(judge.store.damaged) == [2, 4, 6, 8, 10]
    code, out, _ = command("judges", "repair", "--runs", tmp_path)
    assert code == 0
    assert "5 damaged lines moved to" in out
    mended = VerdictStore(tmp_path, judge.name, judge.version)
    assert len(mended.read()) == 12
    assert mended.damaged == {}
    assert judge.store.read().keys() == mended.read().keys()  # one that was open sees the mended file
    assert "stores are whole" in command("judges", "repair", "--runs", tmp_path)[1]


def counting(seen: Counter[str], seconds: float = 0.05):
    def answer(body: dict) -> object:
        seen[body["messages"][0]["content"]] += 1
        time.sleep(seconds)
        return served(GOOD)

    return answer


def start(*words: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_pay_once(faults, judged, tmp_path):
    """Two runs with the same answers, judged at the same time."""
    seen: Counter[str] = Counter()
    faults.otherwise = counting(seen)
    places = [tmp_path / "runs" / f"m{i}" / judged.name for i in range(2)]
    for place in places:
        shutil.copytree(judged, place)
    both = [start("judge", place, "--judge", at(faults), "--judge-in-flight", "4") for place in places[:2]]
    for process in both:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
    assert set(seen.values()) == {1}  # requests == distinct messages
    paid = []
    for place in places[:2]:
        (card,) = [c for n, c in RunFolder(place).card().judges.items() if n.startswith("openai/")]
        paid.append(card["use"]["answered"])
        (found,) = [RunFolder(place).verdicts(n, v) for n, v in RunFolder(place).judges() if n != "exact"]
        assert len(found) == 120
        assert all(v.final is not None for v in found.values())
    assert sum(paid) == len(seen)


@pytest.mark.slow
def test_claims_of_a_process_that_is_killed_are_free(faults, judged, tmp_path):
    seen: Counter[str] = Counter()
    faults.otherwise = counting(seen, 1.5)
    place = tmp_path / "runs" / "m" / judged.name
    shutil.copytree(judged, place)
    process = start("judge", place, "--judge", at(faults))
    end = time.monotonic() + 90
    while time.monotonic() < end and not seen:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    faults.otherwise = counting(seen, 0)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "judge", str(place), "--judge", at(faults)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert max(seen.values()) <= 2
    (found,) = [RunFolder(place).verdicts(n, v) for n, v in RunFolder(place).judges() if n != "exact"]
    assert len(found) == 120


def test_a_claim_is_one_process_s(tmp_path):
    store = VerdictStore(tmp_path, "j", "1")
    row = "ab" * 32
    assert store.claim(row)
    program = (
        "import sys\nfrom pathlib import Path\nfrom judges.store import VerdictStore\n"
        f"store = VerdictStore(Path({str(tmp_path)!r}), 'j', '1')\nprint(store.claim({row!r}), store.claim('cd' * 32))\n"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ).stdout

    assert other() == "False True\n"
    store.release([row])
    assert other() == "True True\n"


def test_a_verdict_in_a_tool_call_counts_and_the_key_is_in_none(faults, tmp_path, monkeypatch):
    canary = "sk-canary-1f2e3d4c5b6a7980"
    monkeypatch.setenv("HARNESS_API_KEY", canary)
    call = {"id": "1", "type": "function", "function": {"name": "verdict", "arguments": GOOD}}
    faults.plan = [
        completion(None, tool_calls=[call]) | {"model": "judge-1"}, served(None, refusal=f"not with {canary}"),
        served(GOOD, reasoning_content=f"the key is {canary}"),
    ]  # fmt: skip
    found = [*judge_of(faults, tmp_path, max_in_flight=1).judge(pairs(3))]
    assert [v.final for v in found] == [1, None, 1]
    assert found[2].raw == f"<think>the key is [key]</think>{GOOD}"
    assert all(canary not in p.read_text() for p in tmp_path.rglob("*.jsonl"))
