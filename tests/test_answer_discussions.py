"""Answers inside a discussion: suppositions, corrections, comparisons, lists of the options, labels, signs. Each template is
read for yes and no alike, or for four orders of the choices: `{0}` is the letter of the answer and `{t0}` its words."""

import time

import pytest

from harness import answers
from harness.records import Reference
from harness.scoring.exact import is_correct

CHOICES = ("CT", "MRI", "pleural effusion", "normal")
ORDERS = [(0, 1, 2, 3), (1, 2, 3, 0), (2, 3, 0, 1), (3, 0, 1, 2)]


def read_yes_no(text):
    return answers.yes_no(answers.read(text).answer)


@pytest.mark.parametrize("yes", ["yes", "no"])
@pytest.mark.parametrize(
    "text",
    [
        "{Y}. No midline shift is seen.", "{Y}, no mass, no effusion.", "{Y}! No mass!", "{Y}.No mass.", "{Y}, no doubt.",
        "Of course {y}.", "Almost certainly {y}", "Technically {y}", "The heart is small → {Y}", "Fracture = {y}", "-{Y}-",
        "{Y} &mdash; clear", "The answer remains {y}", "In this case {y}", "Undoubtedly {y}", "A resounding {y}!", "Oh {y}.",
        "~~{N}~~ {Y}",
        "The answer to 'is it clear' is {y}.",
        "I'm not certain, but I'd say {y}.", "{Y}###", "{Y}\\n\\nThe image is clear.", "{{\\bf {Y}}}",
        "The answer is {y} rather than {n}.",
        "{N}. Oops, {y}.", "{N}. I made a mistake. The answer is {y}.", "{N}. My apologies, the answer is {y}.",
        "{N}. Actually, {y}.", "Thought: {n}?\nAnswer: {Y}", "Reasoning: {n}.\nFinal answer: {Y}",
        "{Y}\n\nExplanation: {N} would need a line.",
        "The answer is {y}. If it were a CT, there would be a line.", "If I had to guess, I'd say {y}.",
        "{Y}, even if it is subtle.",
        "No mass was found. Answer -> {Y}", "{{\"answer\": \"{Y}\", \"explanation\": \"The im", "model\n{Y}", "Assistant: {Y}",
        "<|thinking|>{n}<|/thinking|>{Y}", "<|think|>{n}<|/think|>{Y}", "<think >{n}</think >{Y}",
        "<rationale>{n}</rationale>{Y}",
        "<|thought_start|>{n}<|thought_end|>{Y}", "**Thinking**\n{n}\n**Final Response**\n{Y}",
    ],
)  # fmt: skip
def test_yes_and_no_in_discussions(text, yes):
    no = {"yes": "no", "no": "yes"}[yes]
    assert read_yes_no(text.format(Y=yes.capitalize(), y=yes, N=no.capitalize(), n=no)) == yes


@pytest.mark.parametrize("yes", ["yes", "no"])
@pytest.mark.parametrize(
    "text",
    [
        "On the left {y}, on the right {n}.", "{Y}... maybe {n}.", "If the scan were clear, the answer would be {y}.",
        "If there is a mass, {y}; otherwise {n}.", "The answer is {y} if contrast was given.", "{Y}, if contrast was given.",
        "{Y} -> {N}", "I'm not sure, but maybe {y}.", "The image shows a fracture.", "The image does not show a fracture.",
        "~~{Y}~~", "{Y}, but I am not sure.",
    ],
)  # fmt: skip
def test_neither_yes_nor_no_in_discussions(text, yes):
    no = {"yes": "no", "no": "yes"}[yes]
    assert read_yes_no(text.format(Y=yes.capitalize(), y=yes, N=no.capitalize(), n=no)) is None


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("答案为是", "yes"), ("答案为否", "no"), ("是，也不是", None), ("应该是的", "yes"), ("应该没有", "no"),
        ("可能没有", None),
        ("The answer is 是.", "yes"), ("The answer is 否.", "no"), ("Oui.", "yes"), ("Non.", "no"), ("Correct.", "yes"),
        ("Incorrect.", "no"), ("Not really.", "no"), ("No. of lesions: 3", None),
    ],
)  # fmt: skip
def test_yes_no_in_other_languages(text, reading):
    assert read_yes_no(text) == reading


def permuted(text, order):
    parts = {str(i): "ABCD"[o] for i, o in enumerate(order)}
    return text.format(*("ABCD"[o] for o in order), **{f"t{i}": CHOICES[o] for i, o in enumerate(order)}), parts["0"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "text",
    [
        "{0}. {t0}\n\nExplanation: {1} is {t1}.", "Answer: {0}\n\nExplanation: {1} is {t1}.",
        "{0} because {1}, {2} and {3} are wrong.",
        "{0}, since {1} and {2} don't fit.", "{0} is the best choice, given that {1}, {2}, and {3} are inconsistent with it.",
        "**{0}. {t0}**\n\nExplanation:\n- {1}. {t1}: not seen\n- {2}. {t2}: not seen",
        "{0}. {t0}\n\nThe other options:\n{1}. {t1} - incorrect\n{2}. {t2} - incorrect", "{0}. {t0}\nDifferential: {t1}, {t2}",
        "The options are {1}, {2}, {3} and {0}. The answer is {0}.", "Options:\n{1}. {t1}\n{0}. {t0}\n\nAnswer: {0}",
        "{1}. {t1} {0}. {t0} {2}. {t2} Answer: {0}. {t0}", "After eliminating {1}, {2} and {3}, we are left with {0}.",
        "Ruling out {1} and {2}, {0} remains.", "Although {1} is possible, {0} is more likely.",
        "It may be {1}, but the answer is {0}.",
        "{1} seems right at first, but the correct answer is {0}.", "Instead of {t1}, the image shows {t0}.",
        "{t0} is more likely than {t1}.", "Based on the findings, option {0} best describes the image.", "{1}... no, {0}.",
        "{1}, no wait, {0}.",
        "Answer: {1}. Sorry, I meant {0}.", "The answer is {0} in this case.", "I'd go with {0} here.",
        "The answer is {0} and that's final.",
        "{0} must be the answer.", "Option {0} appears to be correct.", "{0} makes the most sense.", "{1} - no, {0}",
        "Hence option {0} is right and the others are wrong.", "With {1}, {2} and {3} excluded, {0} is the answer.",
        "I was going to say {1}, but {0} is right.", "{1}. Let me correct myself: {0}.", "Undoubtedly {0}.",
        "Is it {t1}? No, {t0}.", "Thought: {1}.\nAnswer: {0}",
        "The option that best fits is {0}.",
        "This suggests {0}.", "The image is consistent with {0}.", "Let's go with {0}.", "I am inclined to choose {0}.",
        "Without a doubt, {0}.",
        "{0} for sure", "{1} ❌\n{0} ✅", "[x] {0}. {t0}\n[ ] {1}. {t1}", "~~{1}~~ {0}", "Answer :- {0}", "Answer -> {0}",
        "\\boxed{{\\rm {0}}}",
        "答案是{t0}。", "图像显示{t0}。", "最佳答案是{0}", "最可能的答案是{0}。", "答案不是{1}，而是{0}。",
        "Die richtige Antwort ist {0}.",
        "<|thinking|>{1}<|/thinking|>{0}", "Question 1: {0}", "If I had to choose, {0}.",
        "{0}. If it were {t1}, there would be air.",
        "{{\"answer\": \"{0}\", \"explanation\": \"The {t1}", "I would pick {0} because {1} ({t1}) doesn't account for it.",
    ],
)  # fmt: skip
def test_letters_that_a_discussion_comes_to(text, order):
    said, letter = permuted(text, order)
    assert answers.letter(answers.read(said).answer, CHOICES) == letter, said


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "text",
    [
        "{0}, possibly {1}", "{0} is correct and {1} is also correct.", "{0}、{1}都正确", "Answer: {0};{1}",
        "{0}. {t0}: incorrect",
        "{0}. {t0} is incorrect.", "I doubt it is {t0}.", "The image fails to show {t0}.", "The image lacks {t0}.",
        "Anything but {0}",
        "If it were {t0}, there would be a line.", "The answer is {0} if contrast was given.", "❌ {0}", "non-{t0}",
        "{t0} not seen",
        "{t0}: none", "nothing to suggest {t0}", "low probability of {t0}", "hardly {t0}", "{t0} is questionable",
        "{t0} denied", "devoid of {t0}",
        "Incorrect: {0}", "Eliminated: {0}, {1}", "Wrong answer: {0}", "Is it {0}? No.",
        "{t0} is unlikely compared with the rest",
    ],
)  # fmt: skip
def test_letters_that_a_discussion_leaves_open(text, order):
    said, _ = permuted(text, order)
    assert answers.letter(answers.read(said).answer, CHOICES) is None, said


@pytest.mark.parametrize(
    ("choices", "text", "letter"),
    [
        (("I", "II", "III"), "I", "A"), (("5 cm", "10 cm"), "It measures 10cm.", "B"), (("0", "1", "2"), "zero", "A"),
        (("Yes, there is", "No, there is not"), "No", "B"), (("Yes, there is", "No, there is not"), "Yes", "A"),
        (("Yes, mild", "Yes, severe"), "Yes", None), (("benign", "malignant"), "non-malignant", None), (("CT", "MRI"),
        "a, b", None),
        (("CT", "MRI"), "a and b", None),
    ],
)  # fmt: skip
def test_choices_in_other_words(choices, text, letter):
    assert answers.letter(text, choices) == letter


@pytest.mark.parametrize(
    ("text", "reference", "right"),
    [
        ("5cm", "5 cm", True), ("5 mm", "5 cm", False), ("twenty-one", "21", True), ("Twenty one.", "21", True),
        ("twenty", "21", False),
        ("X ray", "X-ray", True), ("T2 weighted", "T2-weighted", True), ("-5", "5", False), ("5-10", "510", False),
        (">5", "5", False),
        ("Assistant: pneumonia", "pneumonia", True), ("Not \\boxed{pneumonia}", "pneumonia", False),
        ("The answer is pneumonia. No, effusion.", "pneumonia", False),
        ("The answer is CT. No contrast was given.", "CT", True),
        ("Thought: effusion?\nAnswer: pneumonia", "pneumonia", True), ("~~effusion~~ pneumonia", "pneumonia", True),
    ],
)  # fmt: skip
def test_open_answers_in_other_forms(text, reference, right):
    assert is_correct(answers.read(text).answer, Reference(answers=(reference,))) is right


@pytest.mark.parametrize(
    "part",
    [
        "answer to a ", "Thought:\n", "Thought: a\nAnswer: b\n", "[ ] a\n", "[x] ", '{"answer": "', "if a, ", "❌ ", "A ❌\n",
        "the a b c is ",
        "and A is right ", "A; ", "B... no, ", "A, possibly B, ", "wrong: A, ", "~~a~~", "→", "&amp;", "\\n", "<|thinking|>",
        "<think ",
        "**thinking**\n", "答案是", "A、", "lastly ", "pneumonia is wrong, ", "but maybe ", "not \\boxed{A} ",
        "The answer is CT. No, ", ") ",
    ],
)  # fmt: skip
def test_long_texts_of_one_part_are_read_in_linear_time(part):
    text = (part * 300_000)[:300_000]
    for read in (answers.read, answers.yes_no, answers.short, lambda t: answers.letter(t, ("pneumonia", *CHOICES))):
        start = time.process_time()
        read(text)
        assert time.process_time() - start < 30, part  # well under a second; a quadratic reading takes an hour
