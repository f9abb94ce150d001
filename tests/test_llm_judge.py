"""LLM judges against real servers on loopback: what is sent, what counts, and what never does."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
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
from harness.errors import UserError
from harness.models.api_client import worst_tokens
from harness.models.endpoint import Outgoing
from harness.models.usage import Budget, Limits, Price
from harness.pipeline import make_judges
from harness.records import Prediction, Reference, Sample
from harness.runs import RunFolder
from tests.servers import FaultServer, completion

GOOD = '{"evaluation": "as the reference", "prediction_score": 1}'


def served(content: str | None, *, model: str = "judge-1", **options) -> dict:
    return completion(content, **options) | {"model": model}


@pytest.fixture
def faults():
    server = FaultServer()
    server.otherwise = served(GOOD)
    yield server
    server.stop()


@pytest.fixture
def quick(monkeypatch):
    """Waiting between tries takes no time."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds, *a: sleep(min(seconds, 0.01), *a))


def judge_of(server: FaultServer, runs: Path, **options):
    (judge,) = make_judges(f"openai/judge-1@{server.base}", JudgeOptions(runs=runs, **options))
    return judge


def pairs(count: int, *, reasoning: bool = False, start: int = 0) -> list[tuple[Sample, Prediction]]:
    """Rows that all differ; the answer names the row."""
    out = []
    for i in range(start, start + count):
        reference = Reference(answers=(f"finding {i}",), reasoning="because" if reasoning else None)
        sample = Sample(id=str(i), images=(), question=f"What is shown in case {i}?", reference=reference)
        text = f"<think>seen</think><answer>answer to case {i}</answer>"
        out.append((sample, Prediction(sample_id=str(i), text=text, reasoning="seen", answer=f"answer to case {i}", finish="stop",
                                       prompt_tokens=1, completion_tokens=1)))  # fmt: skip
    return out


def test_a_verdict_and_what_was_sent_for_it(faults, tmp_path):
    judge = judge_of(faults, tmp_path)
    (verdict,) = judge.judge(pairs(1))
    assert (verdict.final, verdict.reasoning, verdict.rationale, verdict.raw) == (1, None, "as the reference", GOOD)
    assert verdict.served == "judge-1"
    assert verdict.usage == {"prompt_tokens": 5, "completion_tokens": 3, "tries": 1}
    (sent,) = faults.hits
    assert (sent["temperature"], sent["seed"], sent["model"]) == (0, 0, "judge-1")
    assert judge.card()["parameters"] == {"temperature": 0, "max_tokens": 512, "seed": 0}
    assert "answer to case 0" in sent["messages"][0]["content"]
    assert judge.card()["use"]["served"] == {"judge-1": 1}


def test_the_image_is_never_sent(faults, slake, tmp_path):
    rows = [(s, Prediction(sample_id=s.id, text="lung", reasoning=None, answer="lung", finish="stop", prompt_tokens=1,
                           completion_tokens=1)) for s in slake.samples[:5]]  # fmt: skip
    list(judge_of(faults, tmp_path).judge(rows))
    for hit in faults.hits:
        assert isinstance(hit["messages"][0]["content"], str)
        assert "image_url" not in json.dumps(hit)
        assert "data:image" not in json.dumps(hit)


def test_reasoning_is_judged_only_where_there_is_a_reference(faults, tmp_path):
    faults.otherwise = served('{"evaluation": "x", "reasoning_score": 0, "prediction_score": 1}')
    rows = [*pairs(1, reasoning=True), *pairs(1, start=1)]
    with_it, without = judge_of(faults, tmp_path, max_in_flight=1).judge(rows)
    assert (with_it.final, with_it.reasoning) == (1, 0)
    assert (without.final, without.reasoning) == (1, None)


def test_a_models_own_failure_is_zero_without_asking(faults, tmp_path):
    ((sample, prediction),) = pairs(1)
    empty = prediction.model_copy(update={"answer": None, "text": "", "reasoning": None})
    colon = prediction.model_copy(update={"answer": ":"})
    judge = judge_of(faults, tmp_path)
    found = [*judge.judge([(sample, empty), (sample, colon)])]
    assert [v.final for v in found] == [0, 0]
    assert faults.hits == []
    # thought but did not answer: the reasoning is judged, and the answer is wrong whatever the judge says
    faults.otherwise = served('{"evaluation": "x", "reasoning_score": 1, "prediction_score": 1}')
    ((sample, prediction),) = pairs(1, reasoning=True)
    (v,) = judge.judge([(sample, prediction.model_copy(update={"answer": None}))])
    assert (v.final, v.reasoning) == (0, 1)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (served("I would say 1."), "the reply is not a JSON object"),
        (served('{"prediction_score": 7}'), "the reply's prediction_score"),
        (served('{"evaluation": "th', finish="length"), "the reply was cut off at the token limit"),
        (served(GOOD, model="gpt-9"), "answered by another model: gpt-9"),
        (served(GOOD, model="judge-1-mini"), "answered by another model: judge-1-mini"),
        (served(None, finish="content_filter"), "withheld by the vendor's content filter"),
        (served("", tokens=0), "an empty reply"),
    ],
)
def test_no_verdict_is_missing_with_the_true_reason_and_its_words(faults, tmp_path, step, why):
    faults.plan = [step]
    first, second = judge_of(faults, tmp_path, max_in_flight=1).judge(pairs(2))
    assert first.final is None
    assert why in first.missing
    assert second.final == 1
    if isinstance(step, dict) and step["choices"][0]["message"]["content"]:
        assert first.raw == step["choices"][0]["message"]["content"]
    # what was paid for is kept, and only asked for again when that is meant
    paid = bool(first.raw is not None)
    kept = {v.sample_id: v for v in judge_of(faults, tmp_path).judge(pairs(2))}
    assert (kept["0"].missing, kept["0"].raw) == ((first.missing, first.raw) if paid else (None, GOOD))
    again = judge_of(faults, tmp_path, ask_again=True)
    assert [v.final for v in again.judge(pairs(2))] == [1, 1]
    assert len(faults.hits) == 3


@pytest.mark.parametrize("name", ["judge-1", "judge-1-2026-01-31", "judge-1@main", "openai/judge-1", "judge-1-001"])
def test_a_snapshot_of_the_model_asked_for_is_that_model(faults, tmp_path, name):
    faults.otherwise = served(GOOD, model=name)
    (verdict,) = judge_of(faults, tmp_path).judge(pairs(1))
    assert (verdict.final, verdict.served) == (1, name)


def test_equal_rows_share_one_request(faults, tmp_path):
    ((sample, prediction),) = pairs(1)
    again = sample.model_copy(update={"id": "twin"})
    judge = judge_of(faults, tmp_path)
    found = [*judge.judge([(sample, prediction), (again, prediction)])]
    assert {v.sample_id: v.final for v in found} == {"0": 1, "twin": 1}
    assert len(faults.hits) == 1
    assert sum(v.usage["tries"] for v in found if v.usage) == 1
    assert judge.card()["use"]["shared_with_equal_rows"] == 1


def test_the_store_is_shared_by_runs_and_asks_nothing_twice(faults, tmp_path):
    first = {v.sample_id: v for v in judge_of(faults, tmp_path).judge(pairs(20))}
    judge = judge_of(faults, tmp_path)
    second = {v.sample_id: v for v in judge.judge(pairs(20))}
    assert len(faults.hits) == 20
    assert {i: (v.final, v.raw, v.served) for i, v in first.items()} == {i: (v.final, v.raw, v.served) for i, v in second.items()}
    assert all(v.usage is None for v in second.values())
    assert (judge.card()["use"]["from_store"], judge.card()["use"]["answered"]) == (20, 0)
    # another prompt, seed or address is another question
    list(judge_of(faults, tmp_path, prompt="rarl-v1").judge(pairs(1)))
    list(judge_of(faults, tmp_path, seed=1).judge(pairs(1)))
    assert len(faults.hits) == 22


def test_from_the_store_litellm_is_not_even_imported(faults, tmp_path):
    list(judge_of(faults, tmp_path).judge(pairs(5)))
    program = (
        "import sys\nfrom pathlib import Path\nfrom harness.contracts import JudgeOptions\n"
        "from harness.pipeline import make_judges\nfrom tests.test_llm_judge import pairs\n"
        "[sys.modules.pop(m) for m in list(sys.modules) if m.startswith('litellm')]\n"
        f"(judge,) = make_judges('openai/judge-1@{faults.base}', JudgeOptions(runs=Path({str(tmp_path)!r})))\n"
        "assert [v.final for v in judge.judge(pairs(5))] == [1] * 5\n"
        "assert not any(m.startswith('litellm') for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120, cwd=Path(__file__).parents[1])


def test_no_more_in_flight_than_asked_for(faults, tmp_path):
    def answered_when_four_are_here(_):
        deadline = time.monotonic() + 30
        while faults.peak < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)  # time for a fifth to come
        return served(GOOD)

    faults.otherwise = answered_when_four_are_here
    list(judge_of(faults, tmp_path, max_in_flight=4).judge(pairs(24)))
    assert faults.peak == 4


def test_requests_a_minute_are_spread(faults, tmp_path):
    start = time.monotonic()
    list(judge_of(faults, tmp_path, limits=Limits(requests=1200)).judge(pairs(8)))
    assert time.monotonic() - start >= 7 * 0.05  # 1,200 a minute is one in 50 ms


def test_tokens_a_minute_are_counted(faults, tmp_path):
    ((sample, prediction),) = pairs(1)
    size = worst_tokens(judge_of(faults, tmp_path)._asked(sample, prediction)["messages"]) / 4 + 512
    limit = size * 60 * 4  # four requests a second; ten seconds' worth may be used at once
    judge = judge_of(faults, tmp_path, limits=Limits(tokens=limit))
    start = time.monotonic()
    list(judge.judge(pairs(44)))
    assert time.monotonic() - start >= 0.75  # the last three had to wait


def test_a_budget_is_never_passed(faults, tmp_path):
    """At $1,000 a million tokens a reply costs 8 tokens, 0.8 cents; what a request may cost with all its tries is held for it."""
    registry = tmp_path / "mine.yaml"
    registry.write_text(
        f"checked: 2026-01-01\njudges:\n  ward: {{model: openai/judge-1, api_base: '{faults.base}', price: [1000, 1000]}}\n"
    )
    ((sample, prediction),) = pairs(1)
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry))
    asked = judge._asked(sample, prediction)
    most = 6 * Price(1000, 1000).of(worst_tokens(asked["messages"]) + 20 + len(json.dumps(asked["schema"])), 512)
    budget = Budget(most + 0.1)
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry, budget=budget, max_in_flight=8))
    found = [*judge.judge(pairs(60))]
    given = [v for v in found if v.final is not None]
    assert 0 < len(given) < 60
    assert budget.spent == pytest.approx(0.008 * len(given))
    assert budget.spent <= budget.limit < budget.spent + most  # not one more could be sent
    assert all(f"--max-cost {budget.limit:g}" in v.missing for v in found if v.final is None)
    assert len(faults.hits) == len(given)
    assert budget.held == pytest.approx(0)


def test_unknown_price_and_a_budget_do_not_go_together(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    (judge,) = make_judges("openai/no-such-model", JudgeOptions(runs=tmp_path, allow_external=True, budget=Budget(1.0)))
    rows = [Outgoing("slake", 1061, may_leave=True)]
    with pytest.raises(UserError, match="the price of openai/no-such-model is unknown"):
        judge.prepare(rows)
    (judge,) = make_judges("openai/no-such-model", JudgeOptions(runs=tmp_path, allow_external=True))
    assert "judge openai/no-such-model: 1061 verdicts, price unknown" in judge.prepare(rows)
    (judge,) = make_judges("gpt-4o-mini", JudgeOptions(runs=tmp_path, allow_external=True))
    notes = judge.prepare(rows)
    assert any("about $0.11 for 1061 verdicts" in n for n in notes)
    assert any("sending to the vendor 'openai'" in n for n in notes)
    assert any("'gpt-4o-mini' ends on 2027-01-14" in n for n in notes)


def test_nothing_leaves_unasked(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    outside = ("gpt-4o-mini", "openai/x@https://example.org/v1", "jury:exact+gpt-4o-mini", "sagemaker/x@http://127.0.0.1:9/v1")
    for name in outside:
        (judge,) = make_judges(name, JudgeOptions(runs=tmp_path))
        with pytest.raises(UserError, match="this would be sent to"):
            judge.prepare([Outgoing("slake", 3, may_leave=True)])
        (judge,) = make_judges(name, JudgeOptions(runs=tmp_path, allow_external=True))
        with pytest.raises(UserError, match="may not leave this machine"):
            judge.prepare([Outgoing("ward", 3, may_leave=False)])


def test_a_redirect_is_not_followed(faults, tmp_path, quick):
    """A server on this machine that points elsewhere would take the rows there."""
    other = FaultServer()
    faults.otherwise = (307, {"location": f"{other.base}/chat/completions"})
    found = [*judge_of(faults, tmp_path, deadline=5).judge(pairs(2))]
    assert other.hits == []
    assert all(v.final is None and "307" in v.missing for v in found)
    other.stop()


def test_a_server_that_is_down_ends_it_and_a_wrong_key_too(tmp_path, quick, faults):
    gone = FaultServer()
    gone.stop()
    with pytest.raises(UserError, match="the first 8 requests all failed"):
        list(judge_of(gone, tmp_path, deadline=5, max_in_flight=4).judge(pairs(20)))
    faults.plan = [served(GOOD), served(GOOD), 401]
    judge = judge_of(faults, tmp_path, max_in_flight=1)
    found = []
    with pytest.raises(UserError, match="401"):
        found += judge.judge(pairs(20))
    assert len(judge.store.read()) == 2  # what was given before is kept


# -- a thousand verdicts from a bad server ------------------------------------------------------------------------


class Chaos:
    """Drops 5 %, 429 for 15 % (half with Retry-After), 500 for 10 %, hangs 2 %, no verdict for 10 %, another model for 1 %."""

    def __init__(self) -> None:
        self.last: dict[int, str] = {}
        self.count: Counter[int] = Counter()

    @staticmethod
    def truth(case: int) -> int:
        return int(hashlib.sha256(f"truth {case}".encode()).digest()[0] % 3 == 0)

    def __call__(self, body: dict) -> object:
        case = int(body["messages"][0]["content"].split("shown in case ")[1].split("?")[0])
        self.count[case] += 1
        draw = int.from_bytes(hashlib.sha256(f"{case} {self.count[case]}".encode()).digest()[:4], "big") / 2**32
        right = json.dumps({"evaluation": f"case {case}", "prediction_score": self.truth(case)})
        wrong = json.dumps({"evaluation": "not mine to say", "prediction_score": 1 - self.truth(case)})
        steps = [
            (0.05, "drop", "drop"), (0.075, "429", 429), (0.075, "429", (429, {"retry-after": "0.02"})), (0.10, "500", 500),
            (0.02, "hang", "hang"), (0.025, "prose", served(f"I think the score is {1 - self.truth(case)}.")),
            (0.025, "truncated", served(right[:20], finish="length")), (0.025, "range", served('{"prediction_score": 2}')),
            (0.025, "fenced", served(f"```json\n{right}\n```")), (0.01, "other", served(wrong, model="cheaper-model")),
        ]  # fmt: skip
        for share, name, step in steps:
            if draw < share:
                self.last[case] = name
                return step
            draw -= share
        self.last[case] = "right"
        return served(right)


WHY = {
    "drop": "Connection", "429": "429", "500": "500", "hang": "no reply within", "prose": "the reply is not a JSON object",
    "truncated": "cut off at the token limit", "range": "the reply's prediction_score", "other": "another model: cheaper-model",
    "right": "no reply within", "fenced": "no reply within", None: "no reply within",
}  # fmt: skip


def test_chaos(faults, tmp_path, quick):
    chaos = Chaos()
    faults.otherwise = chaos
    rows = pairs(1000)
    judge = judge_of(faults, tmp_path, deadline=16)
    found = [*judge.judge(rows)]
    assert sorted(int(v.sample_id) for v in found) == list(range(1000))  # each once
    late = 0
    for v in found:
        case = int(v.sample_id)
        if v.final is not None:
            assert v.final == chaos.truth(case)  # prose and another model always said the opposite
        else:
            late += WHY[chaos.last.get(case)] not in v.missing
            assert WHY[chaos.last.get(case)] in v.missing or "no reply within" in v.missing, (chaos.last.get(case), v.missing)
    assert late <= 20  # a server too busy to answer in time is met as one that hangs, whatever it meant to say
    missing = [v for v in found if v.final is None]
    assert 50 < len(missing) < 140  # those that answered with no verdict, and hardly any other
    assert len({chaos.last.get(int(v.sample_id)) for v in missing} & {"prose", "truncated", "range", "other"}) == 4
    # again: only those that nothing was said about are asked for; with --ask-again all that are missing
    for ask_again in (False, True):
        before = Counter(chaos.count)
        again = {v.sample_id: v for v in judge_of(faults, tmp_path, deadline=16, ask_again=ask_again).judge(rows)}
        asked = {v.sample_id for v in missing if ask_again or v.raw is None}
        assert {str(i) for i in before if chaos.count[i] > before[i]} == asked
        missing = [v for v in again.values() if v.final is None]
    for v in found:
        if v.final is not None:
            assert again[v.sample_id].final == v.final


def test_killed_midway_loses_and_repeats_nothing_that_was_stored(faults, run, tmp_path):
    """kill -9 while verdicts come in; the same command again asks for none that is on disk."""
    seen: Counter[str] = Counter()

    def answer(body: dict) -> object:
        seen[body["messages"][0]["content"]] += 1
        time.sleep(0.02)
        return served(GOOD)

    faults.otherwise = answer
    command = [sys.executable, "-m", "harness", "judge", str(run), "--judge", f"openai/judge-1@{faults.base}", "--quiet",
               "--judge-in-flight", "2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "100"})
    store = run.parent.parent / ".verdicts"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and sum(p.read_bytes().count(b"\n") for p in store.glob("*.jsonl")) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (file,) = store.glob("*.jsonl")
    kept = {json.loads(line)["key"] for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")}
    first = Counter(seen)
    assert 20 <= len(kept) < len({*first}) + 1
    asked_first = len(first)
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len({r["key"] for r in rows}) == len(rows)  # nothing was stored twice
    repeated = [m for m in seen if seen[m] > 1]
    assert len(repeated) <= asked_first - len(kept)  # only what had not reached the disk
    folder = RunFolder(run)
    (name,) = [n for n, _ in folder.judges() if n != "exact"]
    verdicts = next(folder.verdicts(n, v) for n, v in folder.judges() if n == name)
    assert len(verdicts) == 120
    lines = (next((run / "verdicts").glob("openai*.jsonl"))).read_text().splitlines()
    assert len(lines) == 120


def test_a_key_is_in_no_artefact(faults, run, command, monkeypatch):
    """Vendors quote keys in their errors; none reaches a file, the screen or an exception."""
    canary = "sk-canary-1f2e3d4c5b6a7980"
    monkeypatch.setenv("HARNESS_API_KEY", canary)
    monkeypatch.setenv("OPENAI_API_KEY", canary + "-vendor")
    faults.plan = [400, served(f"my key is {canary}"), served(f'{{"evaluation": "{canary}", "prediction_score": 1}}')]
    code, out, err = command("judge", run, "--judge", f"openai/judge-1@{faults.base}")
    assert code == 0
    for path in [p for p in run.parent.parent.rglob("*") if p.is_file()]:
        text = path.read_bytes()
        assert canary.encode() not in text, path
    assert canary not in out + err


def test_judge_command_notes_and_retest(faults, run, command):
    code, out, err = command("judge", run, "--judge", f"openai/judge-1@{faults.base}", "--retest", "0.1")
    assert code == 0
    assert "asked again on" in out
    assert "answered, 0 failed" in err
    folder = RunFolder(run)
    (card,) = [c for n, c in folder.card().judges.items() if n.startswith("openai/judge-1@")]
    assert card["retest"]["raw"]["value"] == 1.0
    assert card["prompt"] == "rarl-v2"
    assert card["api_base"] == faults.base


def test_scores_and_leaderboard_after_an_outage(faults, run, command):
    """Below 98 % coverage a row is shown, bounded, and not ranked."""
    answered = itertools.count(1)
    faults.otherwise = lambda _: served("no comment") if next(answered) % 3 == 0 else served(GOOD)
    _, out, _ = command("judge", run, "--judge", f"openai/judge-1@{faults.base}", "--json")
    (cell,) = json.loads(out)["cells"]
    assert cell["ranked"] is False
    assert cell["coverage"] < 0.98
    assert cell["bound_low"] < cell["value"] <= cell["bound_high"]
    assert cell["missing_reasons"] == {"the reply is not a JSON object": cell["missing"]}


def test_copying_a_run_does_not_copy_its_store(run, tmp_path):
    """Verdicts stand in the run itself: the store is only what saves asking."""
    shutil.copytree(run, tmp_path / "elsewhere" / "m" / "t")
    assert RunFolder(tmp_path / "elsewhere" / "m" / "t").verdicts("exact", RunFolder(run).judges()[0][1])


# -- what a review found ------------------------------------------------------------------------------------------


def test_use_is_counted_by_run_and_kept_over_later_calls(faults, judged, tmp_path, command):
    places = []
    for i in range(2):
        places.append(tmp_path / "runs" / f"m{i}" / judged.name)
        shutil.copytree(judged, places[-1])
    name = f"openai/judge-1@{faults.base}"
    faults.plan = [served("no comment")]

    def use(place: Path) -> dict:
        (card,) = [c for n, c in RunFolder(place).card().judges.items() if n.startswith("openai/")]
        return card["use"] | {"retest": card.get("retest")}

    assert command("judge", places[0], "--judge", name, "--judge-in-flight", "1", "--retest", "0.1")[0] == 0
    first = use(places[0])
    questions = len({json.dumps(h["messages"]) for h in faults.hits})
    assert first["answered"] == questions  # each once; what the retest asked again is not this run's
    sent = len(faults.hits)
    assert (
        command("judge", tmp_path / "runs", "--judge", name)[0] == 0
    )  # one row of the first run again; the second from the store
    assert use(places[0])["answered"] == first["answered"] + len(faults.hits) - sent
    assert use(places[0])["retest"] == first["retest"]
    assert use(places[1])["answered"] == 0
    assert use(places[1])["from_store"] > 50


def test_rows_that_are_always_refused_do_not_end_the_second_try(faults, tmp_path, quick):
    """Everything that can be judged is in the store: the refusals are no sign of a server that is down."""
    faults.otherwise = lambda body: (
        400 if any(f"case {i}?" in body["messages"][0]["content"] for i in range(12)) else served(GOOD)
    )
    for _ in range(2):
        found = [*judge_of(faults, tmp_path, max_in_flight=1).judge([*pairs(20, start=12), *pairs(12)])]
        assert [v.final for v in found].count(None) == 12


def test_odd_replies_end_nothing(faults, tmp_path):
    """Half a character, a model's name that is no text, negative use: each row has its verdict or its reason."""
    faults.plan = [
        served('{"evaluation": "x\ud83d", "prediction_score": 1}'), served('{"evaluation": "x\\ud83d", "prediction_score": 1}'),
        served(GOOD, model=None), served(GOOD) | {"usage": {"prompt_tokens": -5, "completion_tokens": -1, "total_tokens": -6}},
    ]  # fmt: skip
    judge = judge_of(faults, tmp_path, max_in_flight=1)
    found = [*judge.judge(pairs(6))]
    assert [v.final for v in found] == [1] * 6
    assert judge.usage.prompt_tokens >= 0
    assert len(judge.store.read()) == 6


def test_a_budget_waits_for_what_is_under_way(faults, tmp_path):
    """Money that is only held stops nobody: nearly all of a budget is used, at 64 in flight too, and it is never passed."""
    registry = tmp_path / "mine.yaml"
    registry.write_text(
        f"checked: 2026-01-01\njudges:\n  ward: {{model: openai/judge-1, api_base: '{faults.base}', price: [1, 1]}}\n"
    )
    ((sample, prediction),) = pairs(1)
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry))
    worst = 6 * judge._worst(judge._asked(sample, prediction))
    budget = Budget(worst * 3)
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry, budget=budget))
    assert [v.final for v in judge.judge(pairs(100))] == [1] * 100  # 100 x 8 tokens are far less than what three may cost
    assert budget.spent == pytest.approx(100 * 8e-6)
    faults.otherwise = served(None, finish="content_filter")
    rest = Budget(worst * 1.5)
    (judge,) = make_judges("ward", JudgeOptions(runs=tmp_path, registry=registry, budget=rest, max_in_flight=1))
    found = [*judge.judge(pairs(7, start=200))]
    assert rest.spent == pytest.approx(7 * 8e-6)  # what was withheld was billed
    assert {v.missing for v in found} == {"withheld by the vendor's content filter"}


def test_ctrl_c_keeps_every_verdict_that_came(faults, run):
    faults.otherwise = lambda _: (time.sleep(0.03), served(GOOD))[1]
    command = [
        sys.executable,
        "-m",
        "harness",
        "judge",
        str(run),
        "--judge",
        f"openai/judge-1@{faults.base}",
        "--judge-in-flight",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and len(faults.hits) < 30:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    answered = len(faults.hits) - 2  # two were under way
    (file,) = (run.parent.parent / ".verdicts").glob("*.jsonl")
    assert len(file.read_text().splitlines()) >= answered
    (card,) = [c for n, c in RunFolder(run).card().judges.items() if n.startswith("openai/")]
    assert card["use"]["answered"] >= answered


def test_the_reason_of_a_request_is_its_last_answer_not_the_limiter(faults, tmp_path):
    faults.otherwise = 429
    judge = judge_of(faults, tmp_path, deadline=1.0, limits=Limits(requests=30))
    (verdict,) = judge.judge(pairs(1))
    assert "429" in verdict.missing


def test_a_runs_own_word_decides_whether_its_rows_may_leave(run, command, monkeypatch):
    """A private task that is called like a public one stays private."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-0123456789")
    card = json.loads((run / "card.json").read_text())
    assert card["data"]["may_leave_machine"] is True
    card["data"]["may_leave_machine"] = False
    (run / "card.json").write_text(json.dumps(card))
    code, _, err = command("judge", run, "--judge", "gpt-4o-mini", "--allow-external")
    assert code == 2
    assert "task 'slake' may not leave this machine" in err
