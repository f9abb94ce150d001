"""Old runs, read again: the stored texts through today's reader, without the model (`harness judge RUN --reread`).

    RUN/read-by-2/    what was there before: predictions.jsonl, run-card.json, scores.json, verdicts/

The old reading is kept first, and the card names the new reader last, so that a kill in between is mended by the same command.
Verdicts that depend on the reader alone are given anew; any other verdict stays where the answer that it judged is the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence

from harness import answers
from harness.contracts import Judge
from harness.errors import RunError
from harness.models.lm_eval_bridge import PREFIX
from harness.pipeline import judge_again, read_again
from harness.records import Record, RunCard
from harness.runs import RunFolder, write_atomic
from harness.scoring import unread

#: Judges that read answers themselves, without a model: their old verdicts are the old reader's.
READERS = ("exact", "bertscore", "metric", "protocol")


def reread(folder: RunFolder, judges: Sequence[Judge], tags: answers.Tags | None = None) -> tuple[RunFolder, int]:
    """Read a run's texts again and judge what changed; the folder, and how many answers are others than before.

    `tags` None keeps the run's own markers. The folder takes the name that the same command would look for today, where that
    is free. Raises RunError for a run that is not finished, or whose answers another program took.
    """
    card = folder.card()
    if card.data.task.startswith(PREFIX):
        raise RunError(f"{folder.path}: lm-eval took these answers by its own filters, so they are not read again")
    folder.scores()  # raises for a run that is not finished
    markers = card.reasoning_tags if tags is None else tuple(tags)
    new = card.model_copy(update={"reader": answers.VERSION, "reasoning_tags": markers})
    if new == card:
        judge_again(folder, judges)
        return folder, 0
    with folder:
        _keep(folder, card)
        before = folder.predictions()
        asked = {s.id: s.reference for s in folder.questions()}
        after = {i: unread.noted(read_again(p, markers), asked[i]) for i, p in before.items()}
        changed = {i for i, p in after.items() if (p.said, p.reasoning) != (before[i].said, before[i].reasoning)}
        _judged_before(folder, changed)
        write_atomic(folder.path / "predictions.jsonl", _jsonl(after.values()))
        judged = {k: v for k, v in card.judges.items() if not _reads(k)}
        folder.write_card(new.model_copy(update={"judges": judged}))
    judge_again(folder, judges)
    return _rename(folder, card, new), len(changed)


def readers_of(folder: RunFolder) -> list[str]:
    """The run's judges that read answers themselves, as `--judge` names them; `exact` where it has none."""
    own = [(name, v) for name, v in folder.judges() if _reads(name)]
    thresholds = ("bertscore", "metric")
    found = [f"{name}:{v.rpartition('-')[2]}" if name.partition(":")[0] in thresholds else name for name, v in own]
    return list(dict.fromkeys(found)) or ["exact"]


def _reads(judge: str) -> bool:
    """Whether a judge (NAME, NAME:ARGUMENT or NAME@VERSION) is one of READERS."""
    return judge.partition("@")[0].partition(":")[0] in READERS


def _reading(card: RunCard) -> str:
    return f"{card.reader}" + ("-tags" if card.reasoning_tags else "")


def _keep(folder: RunFolder, card: RunCard) -> None:
    """Copy what the old reader left, once: the card's copy comes last and says that the rest is whole."""
    kept = folder.path / f"read-by-{_reading(card)}"
    if (kept / "run-card.json").exists():
        return
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir()
    for name in ("predictions.jsonl", "scores.json"):
        shutil.copy2(folder.path / name, kept / name)
    if (folder.path / "verdicts").exists():
        shutil.copytree(folder.path / "verdicts", kept / "verdicts")
    write_atomic(kept / "run-card.json", card.model_dump_json(indent=2) + "\n")


def _judged_before(folder: RunFolder, changed: set[str]) -> None:
    """Take out the verdicts that no longer fit: all of the judges that read, and those on rows whose answer changed."""
    for name, version in folder.judges():
        path = folder.verdict_path(name, version)
        if _reads(name):
            path.unlink()
            continue
        verdicts = folder.verdicts(name, version)
        left = [v for i, v in verdicts.items() if i not in changed]
        if len(left) < len(verdicts):
            write_atomic(path, _jsonl(left))


def _jsonl(rows: Iterable[Record]) -> str:
    return "".join(r.model_dump_json() + "\n" for r in rows)


def _rename(folder: RunFolder, old: RunCard, new: RunCard) -> RunFolder:
    """Move the folder to the name of its new reading, so that the same `harness run` finds it finished."""
    target = RunFolder.place(folder.root, new)
    moves = RunFolder.place(folder.root, old).path == folder.path and not target.path.exists()
    return RunFolder(folder.path.rename(target.path)) if moves else folder
