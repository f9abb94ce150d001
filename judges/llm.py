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
from harness.errors import JudgeError, ModelError, UserError
from harness.models.api_client import Client, RequestFailed, worst_tokens
from harness.models.endpoint import Endpoint, Outgoing, check_may_leave
from harness.models.flight import FIRST, in_flight
from harness.models.usage import Price, Usage
from harness.plugins import available, did_you_mean
from harness.records import Prediction, Sample, Verdict
from judges import prompt, registry, reply
from judges.patience import Patience
from judges.store import VerdictStore, key

#: Seconds after which verdicts are handed on, and kept: a kill loses no more.
FLUSH = 0.25
#: A try gets this part of the deadline: one that hangs leaves time for others.
TRIES = 5
#: Tokens that a verdict takes, about: for the estimate before anything is sent.
TYPICAL = (450, 60)
#: Sent beside the messages. The limit leaves room for a model that thinks first.
PARAMETERS: dict[str, Any] = {"temperature": 0, "max_tokens": 512}
#: The paper's prompt asks in words only: no schema holds the judge to a form.
WORDS_ONLY = "rarl-v1"
#: How vendors mark a snapshot of the model that was asked for.
_SNAPSHOT = re.compile(r"[-@](?:\d{4}-?\d{2}-?\d{2}|\d{3,4}|main|latest)")


#: A row's key, its verdict, and whether it was asked for by this process.
Answered = tuple[str, Verdict | None, bool]


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
        if endpoint.api_base is not None and options.prompt != WORDS_ONLY:
            self.asks["held_to"] = "the schema, where the server takes one"
        digest = hashlib.sha256(json.dumps(self.asks, sort_keys=True).encode()).hexdigest()
        self.version = f"{options.prompt}-{digest[:8]}"
        self.store = VerdictStore(options.runs, name, self.version)
        self.usage = Usage()
        self.from_store = self.shared = self.kept_missing = 0
        self.patience = Patience()
        self._stop: JudgeError | None = None
        self._client: Client | None = None
        #: A note when its vendor has said that it will end.
        self.ending: str | None = None

    # -- before any work ----------------------------------------------------------------------------------------

    def prepare(self, rows: Sequence[Outgoing]) -> list[str]:
        """What will be sent, to whom, and for about how much. Raises UserError without a key, where rows may not leave, where
        verdicts cannot be kept, or where LiteLLM knows that the model does not take what would be sent."""
        notes = [] if self.ending is None else [self.ending]
        if self.known and self.known.api_base is None and self.endpoint.api_base is not None:
            notes.append(f"judge {self.name}: the environment has it answered at {self.endpoint.api_base}")
        if said := check_may_leave(rows, self.endpoint, allow_external=self.options.allow_external):
            notes.append(f"judge {self.name}: {said}")
        notes += self._store_notes()
        if not self.endpoint.is_local:
            self._need_key()
            self._settle_parameters()
            notes += self._untaken_notes()
        if not self.endpoint.in_process:
            notes += self._price_notes(sum(o.questions for o in rows))
        return notes

    def _store_notes(self) -> list[str]:
        if not self.options.use_store:
            return []
        self.store.check()
        self.store.read()
        if not (damaged := self.store.damaged):
            return []
        first = "; ".join(f"{self.store.path}:{n}: {why}" for n, why in list(damaged.items())[:3])
        lines = f"{len(damaged)} damaged line{'s' * (len(damaged) > 1)} in the store"
        return [f"judge {self.name}: {lines}, left out and asked for again (`harness judges repair` moves them away): {first}"]

    def _price_notes(self, count: int) -> list[str]:
        price, limit = self._price(), self.options.budget.limit
        if price is None and limit is not None:
            raise UserError(
                f"--max-cost: the price of {self.endpoint.model} is unknown, so its cost cannot be bounded",
                hint="give its price in a --judge-registry file (price: [0, 0] where it is free), or leave --max-cost away",
            )
        if self.endpoint.is_local:
            return []
        if price is None:
            return [f"judge {self.name}: {count} verdicts, price unknown"]
        return [f"judge {self.name}: about ${count * price.of(*TYPICAL):.2f} for {count} verdicts, at {sum(TYPICAL)} tokens each"]

    def probe(self, sample: Sample) -> None:
        """Ask about one row, its reference as the answer; the verdict is kept like any other. Raises UserError without one."""
        if self.endpoint.in_process or not self.options.use_store or not sample.reference.answers:
            return
        reference = sample.reference
        answer, thought = reference.answers[0], reference.reasoning
        text = f"<think>{thought}</think><answer>{answer}</answer>" if thought else answer
        prediction = Prediction(
            sample_id=sample.id, text=text, reasoning=thought, answer=answer, finish="stop", prompt_tokens=0, completion_tokens=0
        )
        for verdict in self.judge([(sample, prediction)]):
            why = str(verdict.missing)
            # an odd or a withheld reply to one row says nothing of the others
            if verdict.final is None and (reply.OTHER_MODEL in why or why not in self.patience.barren):
                raise JudgeError(
                    f"{self._where()}: a first row, asked before any work, got no verdict: {why}", hint=self._way_out(why)
                )

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
        """One verdict a pair, those that need no request first. Raises UserError where no request can succeed, or none of the
        first brings a verdict; verdicts given before are yielded, and kept, first."""
        kept = dict(self.store.read()) if self.options.use_store else {}
        if any(v.final is not None for v in kept.values()):
            self.patience.verdict()
        open_rows: dict[str, list[tuple[Sample, Prediction]]] = {}
        questions: dict[str, dict[str, Any]] = {}
        for sample, prediction in pairs:
            if ready := self._unasked(sample, prediction):
                yield ready
                continue
            asked = self._asked(sample, prediction)
            row = key(asked)
            found = self._read_again(kept[row], sample) if row in kept else None
            if found is None or (found.final is None and self.options.ask_again):
                questions[row] = asked
                open_rows.setdefault(row, []).append((sample, prediction))
            else:
                yield self._from_store(found, sample, prediction)
        if not open_rows:
            return
        if self._stop:
            raise self._stop
        self._settle_parameters()
        jobs = (
            functools.partial(self._verdict, row, rows[0][0], questions[row], kept.get(row)) for row, rows in open_rows.items()
        )
        at_most = self.options.max_in_flight
        first = at_most if self.endpoint.in_process else FIRST
        finished = in_flight(jobs, at_most=at_most, batch=len(open_rows), flush=FLUSH, close=self.client.close, first=first)
        try:
            for batch in finished:
                if self.options.use_store:
                    self.store.add((row, v) for row, v, paid in batch if v is not None and paid and v.raw is not None)
                    self.store.release(row for row, _, _ in batch)
                for row, verdict, paid in batch:
                    if verdict is None:
                        continue
                    for i, (sample, prediction) in enumerate(open_rows[row]):
                        self.shared += paid and i > 0
                        if not paid and verdict.raw is not None:
                            yield self._from_store(verdict, sample, prediction)
                            continue
                        own = {"sample_id": sample.id} | ({"usage": None} if i else {})
                        yield self._final(verdict.model_copy(update=own), prediction)
        finally:
            self.store.release_all()
        if self._stop:
            raise self._stop

    def _from_store(self, verdict: Verdict, sample: Sample, prediction: Prediction) -> Verdict:
        """A verdict that was paid for before, by this run or another."""
        self.from_store += 1
        self.kept_missing += verdict.final is None
        if not self.patience.seen:
            self._tallied(verdict)
        return self._final(verdict.model_copy(update={"sample_id": sample.id, "usage": None}), prediction)

    def _read_again(self, kept: Verdict, sample: Sample) -> Verdict:
        """What is kept. The reply of a model that is known by now to be the judge (`serves:`) is read anew."""
        if not (kept.raw and reply.OTHER_MODEL in str(kept.missing) and self._is_asked_for(kept.served)):
            return kept
        scores = reply.read(kept.raw, reasoning=sample.reference.reasoning is not None)
        if isinstance(scores, str):
            return kept
        return reply.scored(self.name, sample, scores, raw=kept.raw, served=kept.served)

    def _unasked(self, sample: Sample, prediction: Prediction) -> Verdict | None:
        """The verdict on a row that no judge is asked about: there is nothing in it that could be judged."""
        about: dict[str, Any] = {"sample_id": sample.id, "judge": self.name}
        answered = any(c.isalnum() for c in prediction.said or "") or (prediction.said or "") in sample.reference.answers
        if answered or (sample.reference.reasoning is not None and prediction.reasoning):
            return None
        reasoning: Any = 0 if sample.reference.reasoning is not None else None
        return Verdict(**about, final=0, reasoning=reasoning, rationale=reply.UNASKED)

    @staticmethod
    def _final(verdict: Verdict, prediction: Prediction) -> Verdict:
        """An answer that is not there is not right, whatever was said about the reasoning."""
        if prediction.said is None and verdict.final == 1:
            return verdict.model_copy(update={"final": 0})
        return verdict

    def _asked(self, sample: Sample, prediction: Prediction) -> dict[str, Any]:
        asked: dict[str, Any] = self.asks | {"messages": prompt.messages(self.options.prompt, sample, prediction)}
        if self.options.prompt != WORDS_ONLY:
            asked["schema"] = reply.schema(sample.reference.reasoning is not None)
        return asked

    def _settle_parameters(self) -> None:
        """What the model is known not to take is not sent; what a registry file asks for is never left away."""
        litellm = self.client.litellm
        try:
            litellm.get_llm_provider(self.endpoint.model, api_base=self.endpoint.api_base)
        except Exception:
            raise ModelError(f"judge {self.name}: LiteLLM knows no such provider", hint="write PROVIDER/NAME") from None
        try:
            self.client.drop_untaken(self.parameters, self._optional)
        except RequestFailed as e:
            raise ModelError(f"judge {self.name}: {e}", hint=e.hint) from None
        # a server of one's own is sent the schema too, and once it refuses it is asked without one; both are read as strictly
        self._schema = self.endpoint.api_base is not None or litellm.supports_response_schema(self.endpoint.model)

    _schema = False

    @property
    def _optional(self) -> set[str]:
        """Parameters that a model is asked without when it does not take them."""
        return {"seed", "temperature", "response_format"} - set(self.known.parameters if self.known else ())

    @property
    def _untaken(self) -> list[str]:
        if self._client is None:
            return []
        return sorted(
            n for n, other in self._client.untaken.items() if other is None and n in {*self.parameters, "response_format"}
        )

    def _untaken_notes(self) -> list[str]:
        if not (names := self._untaken):
            return []
        again = "; a verdict may differ from one time to the next" if {"temperature", "seed"} & set(names) else ""
        return [f"judge {self.name}: the model takes no {' and no '.join(names)}, and is asked without{again}"]

    async def _verdict(self, row: str, sample: Sample, asked: dict[str, Any], old: Verdict | None) -> Answered:
        """(row, its verdict, whether it was asked for now); no verdict once it is known that none will come."""
        if self._stop:  # what is under way was paid for, and is waited for
            return row, None, False
        if self.options.use_store and (found := await self._elsewhere(row, sample, old)):
            return row, found, False
        sent = dict(self.parameters)
        if self._schema and "schema" in asked:
            sent["response_format"] = asked["schema"]
        budget, worst = self.options.budget, self._worst(asked)
        # a try that got no answer may have been billed: each of them is held
        held = worst * (self.client.retries + 1)
        while not budget.hold(held):
            if not budget.held:  # nothing that is under way could give some back
                return row, self._missing(sample, f"--max-cost {budget.limit:g}: the budget was reached"), True
            await asyncio.sleep(0.02)
        cost = held
        try:
            answer = await self.client.ask(asked["messages"], optional=self._optional, **sent)
            cost = (answer.cost or 0.0) + answer.lost * worst
        except RequestFailed as e:
            cost = e.lost * worst
            return row, self._failed(sample, e), True
        finally:
            budget.settle(held, cost)
        self.usage.add(answer)
        self.patience.reply()
        return row, self._tallied(reply.verdict(self.name, sample, answer, asked_for=self._is_asked_for(answer.served))), True

    def _worst(self, asked: dict[str, Any]) -> float:
        """Dollars that one try cannot pass; 0 where no price is known, and no budget can be kept either."""
        tokens = worst_tokens(asked["messages"]) + len(json.dumps(asked.get("schema", "")))
        return self.client.price.of(tokens, self.parameters["max_tokens"]) if self.client.price else 0.0

    async def _elsewhere(self, row: str, sample: Sample, old: Verdict | None) -> Verdict | None:
        """What another process was told about this row meanwhile; None when this one holds the claim, and is to ask."""
        clock = asyncio.get_running_loop().time
        end = clock() + self.client.deadline
        while not self.store.claim(row):
            if clock() > end:
                return self._missing(sample, f"another process was asking for it, for more than {self.client.deadline:.0f} s")
            await asyncio.sleep(0.05)
        found = self.store.read().get(row)
        return None if found is None or found == old else self._read_again(found, sample)

    def _failed(self, sample: Sample, e: RequestFailed) -> Verdict:
        self.usage.failed += 1
        if e.fatal:
            raise ModelError(f"{self._where()}: {e}", hint=e.hint or "check the judge's name and its key") from None
        if e.withheld:
            return self._tallied(self._missing(sample, str(e)))
        if stop := self.patience.no_reply(str(e), e.silent):
            asked = e.hint or "is the server up, and its address right?"
            raise JudgeError(f"{self._where()}: {stop}", hint=f"{asked} Verdicts so far are kept; run the same command again")
        return self._missing(sample, str(e))

    def _tallied(self, verdict: Verdict) -> Verdict:
        """The verdict itself; where too many were none, the next request stops everything."""
        if self.endpoint.in_process:  # it costs nothing, and nothing else answers
            return verdict
        if verdict.final is not None:
            self.patience.verdict()
        elif stop := self.patience.no_verdict(str(verdict.missing), foreign=reply.OTHER_MODEL in str(verdict.missing)):
            kept = "What was said is kept and not paid for again; --ask-again asks once more"
            self._stop = JudgeError(f"{self._where()}: {stop}", hint=f"{self._way_out(stop)}. {kept}")
        return verdict

    def _where(self) -> str:
        return f"judge {self.name} at {self.endpoint.api_base or self.endpoint.where}"

    def _way_out(self, why: str) -> str:
        if reply.OTHER_MODEL in why:
            return "name the judge that answers, or say `serves: NAME` of this one in a --judge-registry file"
        if "--max-cost" in why:
            return "give more with --max-cost"
        return (
            "is the server up, and is this its address?" if self.patience.failed else "its words are under `raw` in the verdicts"
        )

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
            "parameters": {k: v for k, v in self.parameters.items() if k not in self._untaken},
            "not_taken": self._untaken,
            "schema": self._schema and self.options.prompt != WORDS_ONLY and "response_format" not in self._untaken,
            "ends": str(self.known.ends) if self.known and self.known.ends else None,
            "use": {
                "from_store": self.from_store,
                "shared_with_equal_rows": self.shared,
                "kept_without_verdict": self.kept_missing,
                **self.usage.row(),
            },
        }


def create(argument: str, options: JudgeOptions) -> LlmJudge:
    """The factory behind every name that no other judge has. Raises UserError for one that means nothing, or has ended."""
    known, today = registry.read(options.registry), datetime.date.today()
    if found := known.find(argument):
        name, entry = found
        if options.accept_successor and (after := registry.in_its_place(entry, today)):
            judge = create(after, options)
            # nowhere under the old name alone: what it says is another judge's word
            judge.name = f"{name} -> {judge.name}"
            return judge
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
