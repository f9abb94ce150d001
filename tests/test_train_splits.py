"""Which rows train and which score the checkpoints: nested, by image, never the test's."""

from collections import Counter

import pytest

from harness.errors import DataError, UserError
from tests.conftest import load
from trainers import splits


@pytest.fixture(scope="module")
def rows():
    return load("slake", split="train")


def test_subsets_are_nested_and_drawn_by_seed(rows):
    small, large = (splits.subset(rows.samples, n, 0) for n in (500, 1000))
    assert [len(small), len(large)] == [500, 1000]
    assert {s.id for s in small} < {s.id for s in large} < {s.id for s in rows.samples}
    assert small == splits.subset(rows.samples, 500, 0)
    assert {s.id for s in small} != {s.id for s in splits.subset(rows.samples, 500, 1)}
    assert splits.subset(rows.samples, len(rows.samples), 0) == rows.samples


def test_every_image_gives_its_share(rows):
    whole, part = (Counter(s.cluster for s in each) for each in (rows.samples, splits.subset(rows.samples, 1000, 0)))
    share = 1000 / len(rows.samples)
    assert all(abs(part[c] - share * n) <= 1 for c, n in whole.items())


def test_more_samples_than_rows_is_refused(rows):
    with pytest.raises(DataError, match="5000 samples asked for, and there are 4918 training rows"):
        splits.subset(rows.samples, 5000, 0)


def choose(name, asked="auto", at_most=200, names=("train", "validation", "test")):
    task = load(name, split="train")
    return splits.choose(task, asked, at_most, 0, names, lambda split: load(name, split=split))


def test_the_validation_split_is_taken_where_there_is_one():
    task, dev = choose("slake_grounded")
    assert (dev.card.split, len(task.samples), len(dev.samples), dev.card.rows) == ("validation", 716, 132, 132)
    assert not splits.images(task.samples) & splits.images(dev.samples)


def test_fewer_dev_rows_are_whole_images():
    _, dev = choose("slake_grounded", at_most=40)
    shown = {s.cluster for s in dev.samples}
    assert 30 <= len(dev.samples) <= 40
    assert {s.id for s in dev.samples} == {s.id for s in load("slake_grounded", split="validation").samples if s.cluster in shown}


def test_without_one_a_tenth_of_the_training_rows_is_held_out_by_image():
    task, dev = choose("slake_grounded", names=("train", "test"))
    assert dev.card.split == "train"
    assert len(task.samples) + len(dev.samples) == 716
    assert 60 <= len(dev.samples) <= 71
    assert not splits.images(dev.samples) & (splits.images(task.samples) | splits.images(load("slake_grounded").samples))
    assert task.card.fingerprint != load("slake_grounded", split="train").card.fingerprint


def test_images_of_the_test_are_never_held_out():
    """All 203 of VQA-RAD's test images are in its training split too."""
    task, dev = choose("vqa_rad", names=("train", "test"))
    assert dev.samples
    assert not splits.images(dev.samples) & splits.images(load("vqa_rad").samples)
    assert not splits.images(dev.samples) & splits.images(task.samples)


def test_a_dev_split_that_shares_images_with_the_test_is_refused():
    with pytest.raises(
        DataError, match=r"dev split 'test' of task 'slake_grounded' shares 67 image\(s\) with the test split"
    ) as e:
        choose("slake_grounded", "test")
    assert "--set dev=auto" in e.value.hint
    with pytest.raises(DataError, match="with the training rows"):
        choose("slake_grounded", "train")
    with pytest.raises(UserError, match="has no split 'validatoin'"):
        choose("slake_grounded", "validatoin")


def test_the_test_split_is_not_trained_on(tmp_path):
    from harness.cli.train_setup import make

    with pytest.raises(UserError, match="--split test: is what task 'slake_grounded' tests on") as e:
        make("sft", "tiny", "slake_grounded", None, [], tmp_path / "x", split="test", data="bundled", device="cpu")
    assert "train" in e.value.hint


def test_dev_rows_that_hold_no_whole_image_are_refused():
    task = load("slake", split="train")
    with pytest.raises(DataError, match="'dev_rows': 1 holds no whole image") as e:
        splits.choose(task, "validation", 1, 0, ["validation"], lambda name: load("slake", split=name))
    assert "set dev_rows to at least" in e.value.hint
