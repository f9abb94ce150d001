"""LLM judges over LiteLLM: `--judge gpt-4o-mini`, any LiteLLM name, `openai/NAME@http://host:port/v1`, `local:PATH`.

One request a row (equal rows share one), all texts and no image. A verdict is 0, 1, or missing with the true reason: a reply
that is no verdict, another model that answered, a server that failed, a budget that was reached. A model's own failure is not
the judge's to decide: an answer that cannot be read is 0 without asking.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from harness.contracts import Judge, JudgeOptions
from harness.errors import ModelError, UserError
from harness.models.api_client import GIVE_UP_AFTER, Client, RequestFailed, worst_tokens
from harness.models.endpoint import Endpoint, Outgoing, check_may_leave
from harness.models.flight import in_flight
from harness.models.usage import Price, Reply, Usage
from harness.plugins import available, did_you_mean
from harness.records import Prediction, Sample, Verdict
from judges import prompt, registry, reply
from judges.store import VerdictStore, key

#: Seconds after which verdicts are handed on, and kept: a kill loses no more.
FLUSH = 0.25
#: A try gets this part of the deadline: one that hangs leaves time for others.
TRIES = 5
#: Tokens that a verdict takes, about: for the estimate before anything is sent.
TYPICAL = (450, 60)
#: Sent beside the messages. The limit leaves room for a model that thinks first.
PARAMETERS: dict[str, Any] = {"temperature": 0, "max_tokens": 512}
#: How vendors mark a snapshot of the model that was asked for.
_SNAPSHOT = re.compile(r"[-@](?:\d{4}-?\d{2}-?\d{2}|\d{3,4}|main|latest)")


class LlmJudge(Judge):
    """Fulfils harness.contracts.Judge. `endpoint` says who answers; `known` is its entry in the registry, if it has one."""

    def __init__(
        self, name: str, endpoint: Endpoint, options: JudgeOptions, known: registry.Known | None = None, identity: str = ""
    ) -> None:
        self.name, self.endpoint, self.options, self.known = name, endpoint, options, known
        own = known.parameters if known else {}
        asked: dict[str, Any] = PARAMETERS | {"seed": options.seed} | dict(own)
        self.parameters: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
        self.prompt_sha256 = prompt.sha256(options.prompt)
        #: Everything that decides a verdict beside the row.
        self.asks = {
            "model": endpoint.model,
            "api_base": endpoint.api_base,
            "identity": identity,
            "prompt": self.prompt_sha256,
            "parameters": dict(self.parameters),
        }
        digest = hashlib.sha256(json.dumps(self.asks, sort_keys=True).encode()).hexdigest()
        self.version = f"{options.prompt}-{digest[:8]}"
        self.store = VerdictStore(options.runs, name, self.version)
        self.usage = Usage()
        self.from_store = self.shared = 0
        self._client: Client | None = None
        #: A note when its vendor has said that it will end.
        self.ending: str | None = None

    # -- before any work ----------------------------------------------------------------------------------------

    def prepare(self, rows: Sequence[Outgoing]) -> list[str]:
        """What will be sent, to whom, and for about how much. Raises UserError without a key, or where rows may not leave."""
        notes = [] if self.ending is None else [self.ending]
        if self.known and self.known.api_base is None and self.endpoint.api_base is not None:
            notes.append(f"judge {self.name}: the environment has it answered at {self.endpoint.api_base}")
        if said := check_may_leave(rows, self.endpoint, allow_external=self.options.allow_external):
            notes.append(f"judge {self.name}: {said}")
        if not self.endpoint.is_local:
            self._need_key()
            count = sum(o.questions for o in rows)
            price = self._price()
            if price is None:
                notes.append(f"judge {self.name}: {count} verdicts, price unknown")
                if self.options.budget.limit is not None:
                    raise UserError(
                        f"--max-cost: the price of {self.endpoint.model} is unknown, so its cost cannot be bounded",
                        hint="give its price in a --judge-registry file, or leave --max-cost away",
                    )
            else:
                cost = count * price.of(*TYPICAL)
                notes.append(f"judge {self.name}: about ${cost:.2f} for {count} verdicts, at {sum(TYPICAL)} tokens each")
        return notes

    def _price(self) -> Price | None:
        if self.known and (cost := self.known.cost()):
            return cost
        return self.client.price

    def _need_key(self) -> None:
        if self.endpoint.api_base is not None or os.environ.get(f"{self.endpoint.provider.upper()}_API_KEY"):
            return
        needed = self.client.litellm.validate_environment(self.endpoint.model)
        if not needed["keys_in_environment"] and needed["missing_keys"]:
            raise ModelError(f"judge {self.name}: no key", hint=f"set {' and '.join(needed['missing_keys'])}")

    @property
    def client(self) -> Client:
        """Made when it is first needed: importing LiteLLM takes seconds, and verdicts in the store need none."""
        if self._client is None:
            # a model in this process answers when its turn comes
            deadline = 86400.0 if self.endpoint.in_process else self.options.deadline
            self._client = Client(
                self.endpoint,
                timeout=deadline if self.endpoint.in_process else deadline / TRIES,
                deadline=deadline,
                limits=self.options.limits,
                price=self.known.cost() if self.known else None,
            )
        return self._client

    # -- verdicts -----------------------------------------------------------------------------------------------

    def judge(self, pairs: Sequence[tuple[Sample, Prediction]]) -> Iterator[Verdict]:
        """One verdict a pair, those that need no request first. Raises ModelError where no request can succeed; verdicts given
        before are yielded, and kept, first."""
        kept = self.store.read() if self.options.use_store else {}
        open_rows: dict[str, list[tuple[Sample, Prediction]]] = {}
        questions: dict[str, dict[str, Any]] = {}
        for sample, prediction in pairs:
            if ready := self._unasked(sample, prediction):
                yield ready
                continue
            asked = self._asked(sample, prediction)
            row = key(asked)
            if row in kept:
                self.from_store += 1
                # what it cost was paid by another run
                yield self._final(kept[row].model_copy(update={"sample_id": sample.id, "usage": None}), prediction)
            else:
                questions[row] = asked
                open_rows.setdefault(row, []).append((sample, prediction))
        if not open_rows:
            return
        self._drop_unsupported()
        jobs = (functools.partial(self._verdict, row, rows[0][0], questions[row]) for row, rows in open_rows.items())
        finished = in_flight(jobs, at_most=self.options.max_in_flight, batch=len(open_rows), flush=FLUSH, close=self.client.close)
        for batch in finished:
            if self.options.use_store:
                self.store.add((row, v) for row, v in batch if v.raw is not None)
            for row, verdict in batch:
                for i, (sample, prediction) in enumerate(open_rows[row]):
                    self.shared += i > 0
                    own = {"sample_id": sample.id} | ({"usage": None} if i else {})
                    yield self._final(verdict.model_copy(update=own), prediction)

    def _unasked(self, sample: Sample, prediction: Prediction) -> Verdict | None:
        """The verdict on a row that no judge is asked about: there is nothing in it that could be judged."""
        about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
        answered = any(c.isalnum() for c in prediction.answer or "") or (prediction.answer or "") in sample.reference.answers
        if answered or (sample.reference.reasoning is not None and prediction.reasoning):
            return None
        reasoning: Any = 0 if sample.reference.reasoning is not None else None
        return Verdict(**about, final=0, reasoning=reasoning, rationale="no readable answer: 0 without asking the judge")

    @staticmethod
    def _final(verdict: Verdict, prediction: Prediction) -> Verdict:
        """An answer that is not there is not right, whatever was said about the reasoning."""
        if prediction.answer is None and verdict.final == 1:
            return verdict.model_copy(update={"final": 0})
        return verdict

    def _asked(self, sample: Sample, prediction: Prediction) -> dict[str, Any]:
        asked: dict[str, Any] = self.asks | {"messages": prompt.messages(self.options.prompt, sample, prediction)}
        if self.options.prompt != "rarl-v1":  # the paper's judge was asked in words only
            asked["schema"] = reply.schema(sample.reference.reasoning is not None)
        return asked

    def _drop_unsupported(self) -> None:
        """A vendor that takes no seed is asked without one; any other parameter it refuses is an error that names it."""
        litellm = self.client.litellm
        if self.endpoint.in_process:
            return
        try:
            model, provider, _, _ = litellm.get_llm_provider(self.endpoint.model, api_base=self.endpoint.api_base)
        except Exception:
            raise ModelError(f"judge {self.name}: LiteLLM knows no such provider", hint="write PROVIDER/NAME") from None
        supported = litellm.get_supported_openai_params(model=model, custom_llm_provider=provider) or ()
        if "seed" not in supported:
            self.parameters.pop("seed", None)
        # a server of one's own may not know schemas, and its reply is read as strictly without one
        self._schema = self.endpoint.api_base is None and litellm.supports_response_schema(self.endpoint.model)

    _schema = False

    async def _verdict(self, row: str, sample: Sample, asked: dict[str, Any]) -> tuple[str, Verdict]:
        sent = dict(self.parameters)
        if self._schema and "schema" in asked:
            sent["response_format"] = asked["schema"]
        budget, price = self.options.budget, self.client.price
        # a try that got no answer may have been billed: each of them is held
        worst = price.of(worst_tokens(asked["messages"]), sent["max_tokens"]) if price else 0.0
        held = worst * (self.client.retries + 1)
        while not budget.hold(held):
            if not budget.held:  # nothing that is under way could give some back
                return row, self._missing(sample, f"--max-cost {budget.limit:g}: the budget was reached")
            await asyncio.sleep(0.02)
        cost = held
        try:
            answer = await self.client.ask(asked["messages"], **sent)
            cost = (answer.cost or 0.0) + answer.lost * worst
        except RequestFailed as e:
            cost = e.lost * worst
            return row, self._failed(sample, e)
        finally:
            budget.settle(held, cost)
        self.usage.add(answer)
        return row, self._read(sample, answer)

    def _failed(self, sample: Sample, e: RequestFailed) -> Verdict:
        self.usage.failed += 1
        where = self.endpoint.api_base or self.endpoint.where
        if e.fatal:
            raise ModelError(f"judge {self.name} at {where}: {e}", hint="check the judge's name and its key") from None
        if not (e.withheld or self.usage.answered or self.from_store) and self.usage.failed >= GIVE_UP_AFTER:
            raise ModelError(
                f"judge {self.name} at {where}: the first {self.usage.failed} requests all failed: {e}",
                hint="is the server up, and its address right? Verdicts so far are kept; run the same command again",
            ) from None
        return self._missing(sample, str(e))

    def _read(self, sample: Sample, answer: Reply) -> Verdict:
        raw = answer.content
        use = {"prompt_tokens": answer.prompt_tokens, "completion_tokens": answer.completion_tokens, "tries": answer.tries}
        about: dict[str, Any] = {
            "raw": raw, "served": answer.served, "usage": use | ({"cost_usd": answer.cost} if answer.cost is not None else {}),
        }  # fmt: skip
        if not self._is_asked_for(answer.served):
            return self._missing(sample, f"answered by another model: {answer.served}", **about)
        scores = reply.read(raw, reasoning=sample.reference.reasoning is not None)
        if isinstance(scores, str):
            cut = "the reply was cut off at the token limit" if answer.finish == "length" else scores
            return self._missing(sample, cut, **about)
        reasoning = scores.reasoning_score if sample.reference.reasoning is not None else None
        return Verdict(
            sample_id=sample.id, judge=self.name, final=scores.prediction_score, reasoning=reasoning,
            rationale=scores.evaluation or None, **about,
        )  # fmt: skip

    def _is_asked_for(self, served: str | None) -> bool:
        """Whether the model that says it answered is the one that was asked, or a snapshot of it."""
        if served is None or self.endpoint.in_process or (self.known and served == self.known.serves):
            return True
        asked = self.endpoint.model.partition("/")[2]
        names = {served, served.removeprefix(f"{self.endpoint.provider}/"), served.removeprefix("models/")}
        return any(n == asked or (n.startswith(asked) and _SNAPSHOT.fullmatch(n[len(asked) :])) for n in names)

    def _missing(self, sample: Sample, why: str, **about: Any) -> Verdict:
        return Verdict(sample_id=sample.id, judge=self.name, final=None, missing=why, **about)

    def card(self) -> dict[str, Any]:
        return {
            "model": self.endpoint.model,
            "api_base": self.endpoint.api_base,
            "prompt": self.options.prompt,
            "prompt_sha256": self.prompt_sha256,
            "parameters": self.parameters,
            "schema": self._schema,
            "ends": str(self.known.ends) if self.known and self.known.ends else None,
            "use": {"from_store": self.from_store, "shared_with_equal_rows": self.shared, **self.usage.row()},
        }


def create(argument: str, options: JudgeOptions) -> LlmJudge:
    """The factory behind every name that no other judge has. Raises UserError for one that means nothing, or has ended."""
    known, today = registry.read(options.registry), datetime.date.today()
    if found := known.find(argument):
        name, entry = found
        registry.refuse_ended(name, entry, today)
        judge = LlmJudge(name, Endpoint.parse(entry.model, entry.api_base), options, entry)
        judge.ending = registry.ends_soon(name, entry, today)
        return judge
    if "/" not in argument:
        hint = did_you_mean(argument, sorted({*available("judges"), *known.judges} - {"litellm"}))
        raise UserError(f"no judge named '{argument}'", hint=f"{hint} Any LiteLLM name works too: PROVIDER/NAME")
    endpoint = Endpoint.parse(argument)
    judge = LlmJudge(endpoint.model, endpoint, options)
    if not endpoint.is_local and (same := known.same_model(endpoint.model)):
        registry.refuse_ended(argument, same, today)
        judge.ending = registry.ends_soon(argument, same, today)
    return judge
