"""Which rows train and which score the checkpoints: by image, and never one that the test shows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace

from harness.data import LoadedTask, counted
from harness.errors import DataError
from harness.records import Sample

#: Names under which tasks keep rows for choosing a checkpoint.
DEV_NAMES = ("validation", "val", "dev", "validate")
#: Where a task has none: this share of the training rows, whole images at a time.
HELD_OUT = 0.1


def images(samples: Sequence[Sample]) -> set[str]:
    """Hashes of all images shown, and the patients or studies that the rows are of: no split may share either."""
    return {i.sha256 for s in samples for i in s.images} | {s.group for s in samples if s.group}


def with_samples(task: LoadedTask, samples: list[Sample]) -> LoadedTask:
    """The task with these rows, its card saying so."""
    return replace(task, samples=samples, card=task.card.model_copy(update=counted(samples)))


def subset(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """`count` rows drawn by seed, in their own order, each image giving its share (one draw holds every smaller one).

    Raises DataError when there are fewer rows.
    """
    if count > len(samples):
        raise DataError(f"{count} samples asked for, and there are {len(samples)} training rows", hint="ask for fewer")
    groups: dict[str, list[int]] = {}
    for i, s in enumerate(samples):
        groups.setdefault(s.cluster, []).append(i)
    place: dict[int, float] = {}
    for cluster in sorted(groups):
        rng = random.Random(f"{seed}:{cluster}")
        rows = groups[cluster]
        rng.shuffle(rows)
        start = rng.random()  # an image with one row is as likely to come early as late
        place |= {row: (k + start) / len(rows) for k, row in enumerate(rows)}
    chosen = sorted(sorted(place, key=lambda i: (place[i], samples[i].id))[:count])
    return [samples[i] for i in chosen]


def some_images(samples: Sequence[Sample], at_most: int, seed: int) -> list[Sample]:
    """At most `at_most` rows, whole images at a time, drawn by seed; the rows keep their order."""
    clusters = sorted({s.cluster for s in samples})
    random.Random(seed).shuffle(clusters)
    kept: set[str] = set()
    rows = 0
    for c in clusters:
        size = sum(s.cluster == c for s in samples)
        if rows + size <= at_most:
            kept.add(c)
            rows += size
    return [s for s in samples if s.cluster in kept]


def hold_out(task: LoadedTask, test: Set[str], seed: int) -> tuple[LoadedTask, LoadedTask]:
    """(training rows, dev rows): about a tenth of the rows, on images that neither the test nor the rest shows.

    Raises DataError where every image is in the test too.
    """
    free = [s for s in task.samples if not test & images([s])]
    dev = some_images(free, max(1, int(HELD_OUT * len(task.samples))), seed)
    shown = images(dev)
    rest = [s for s in task.samples if not shown & images([s])]
    if not dev or not rest:
        raise DataError(
            f"task '{task.spec.name}': no training image can be held out (the test shows them all)", hint="--set dev=none"
        )
    return with_samples(task, rest), with_samples(task, dev)


def check_dev(task: LoadedTask, dev: LoadedTask, test: Set[str]) -> None:
    """Raises DataError for a dev split that shares an image with the test or with the training rows."""
    for shown, what in ((test, "the test split"), (images(task.samples), "the training rows")):
        if shared := images(dev.samples) & shown:
            raise DataError(
                f"dev split '{dev.card.split}' of task '{dev.spec.name}' shares {len(shared)} image(s) with {what}",
                hint="--set dev=auto holds out images that neither shows; --set dev=none scores no checkpoints",
            )


def choose(
    task: LoadedTask, asked: str, at_most: int, seed: int, names: Sequence[str], load: Callable[[str], LoadedTask]
) -> tuple[LoadedTask, LoadedTask]:
    """(training rows, dev rows). `asked` is auto or a split; `names` are the splits there are, and `load` reads one.

    auto takes the task's validation split where it shows no image of training or test, else holds out training rows.
    Raises DataError for a split asked for by name that shares images with either.
    """
    spec, split = task.spec, task.card.split
    test = images(load(spec.split).samples) if spec.split in names and spec.split != split else set()
    if asked != "auto":
        dev = load(asked)
        check_dev(task, dev, test)
    else:
        kept = next((load(n) for n in DEV_NAMES if n in names and n != split), None)
        if kept and not images(kept.samples) & (test | images(task.samples)):
            dev = kept
        else:
            task, dev = hold_out(task, test, seed)
    rows = some_images(dev.samples, at_most, seed)
    if not rows:
        fewest = min(Counter(s.cluster for s in dev.samples).values(), default=0)
        raise DataError(
            f"recipe key 'dev_rows': {at_most} holds no whole image of dev split '{dev.card.split}' of task '{spec.name}'",
            hint=f"set dev_rows to at least {fewest}, or --set dev=none",
        )
    return task, with_samples(dev, rows)
