"""Answers as models really write them, and what a careful person reads: thinking of every family, typography, denials, doubts,
explanations. What holds for yes holds for no, and for each letter alike: the templates say each of them once for all."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import answers
from harness.records import Reference
from harness.scoring.exact import is_correct

CHOICES = ("pneumonia", "pleural effusion", "pneumothorax", "normal")
LETTERS = "ABCD"

HARMONY = "<|channel|>analysis<|message|>hmm<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"


@pytest.mark.parametrize(
    "template",
    [
        "<think>hmm</think>{}", "<thinking>hmm</thinking>\n\n{}", "<thought>hmm</thought>{}", "<reasoning>hmm</reasoning>{}",
        "<Reason>hmm</Reason> {}", "[THINK]hmm[/THINK]{}", "<unused94>thought\nhmm<unused95>{}", "◁think▷hmm◁/think▷{}",
        "<|begin_of_thought|>hmm<|end_of_thought|><|begin_of_solution|>{}<|end_of_solution|>", HARMONY,
        "hmm<|end|><|start|>assistant<|channel|>final<|message|>{}", "## Thinking\n\nhmm\n\n## Final Response\n\n{}",
        "<|START_THINKING|>hmm<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
        "<reasoning>hmm</reasoning><answer>{}</answer>",
        "<SUMMARY>h</SUMMARY><CAPTION>m</CAPTION><REASONING>m</REASONING><CONCLUSION>{}</CONCLUSION>", "hmm</think>{}",
        "<think>hmm</think><|begin_of_box|>{}<|end_of_box|>", "<think>h<think>m</think>m</think>{}<|im_end|>",
        "<think>h</think><think>m</think>{}</s>", "<think>h</think>{}<think>m</think>", "<seed:think>hmm</seed:think>{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("answer", ["Yes", "**B**, there is.", "the left lung"])
def test_thinking_in_every_dress(template, answer):
    found = answers.read(template.format(answer))
    assert found.answer == answer
    assert found.reasoning
    assert "<" not in found.reasoning
    assert answers.read(found.answer) == (None, answer)  # reading again reads the same


@pytest.mark.parametrize(
    "cut",
    [
        "<thinking>The answer is yes", "[THINK]yes", "<unused94>thought\nyes", "<|channel|>analysis<|message|>yes", "◁think▷yes",
        "## Thinking\n\nyes", "<think>a</think><think>yes", "<SUMMARY>x</SUMMARY><REASONING>yes", "<think>say <answer> or",
    ],
)  # fmt: skip
def test_thinking_that_was_cut_off_has_no_answer(cut):
    assert answers.read(cut).answer is None
    assert answers.read(cut).reasoning


def test_tags_of_ones_own():
    text = "<<plan>>a<</plan>>b"
    assert answers.read(text) == (None, text)
    assert answers.read(text, [("<<plan>>", "<</plan>>")]) == ("a", "b")
    assert answers.read("<<plan>>a", [("<<plan>>", "<</plan>>")]).answer is None
    assert answers.is_marker("<<plan>>", [("<<plan>>", "<</plan>>")])
    assert not answers.is_marker("<<plan>>")


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("[INST]why?[/INST][THINK]", "[THINK]"),
    ],
)
def test_a_template_that_opens_the_thinking(prompt, opened):
    assert answers.left_open(prompt) == opened


SAYS = st.sampled_from(
    [
        "{}", "{}.", "{}!", "({})", "[{}]", "{{{}}}", "\"{}\"", "“{}”.", "**{}**", "_{}_", "`{}`", "# {}", "> {}", "- {}", "* {}",
        "$\\boxed{{{}}}$", "\\boxed{{\\text{{{}}}}}", "\\text{{{}}}", "{}。", "【{}】", "¡{}!", "{}،",
        "Answer: {}", "**Answer:** {}", "**Answer**: {}.", "Final Answer:\n{}", "The answer is {}.", "The correct answer is: {}",
        "So the final answer is **{}**.", "I would say {}", "答案：{}", "答案是{}", "```\n{}\n```",
        "```json\n{{\"answer\": \"{}\"}}\n```",
        "{{\"answer\": \"{}\", \"explanation\": \"a long one\"}}", "{}<|im_end|>", "Answer - {}", "\u200b{}\ufeff",
        "| Answer | {} |",
        "Thus, {}.", "Is there a fracture? {}.", "<b>{}</b>", "The image is clear. Therefore the answer is {}.", "It's {}.",
        "Conclusion: {}", "I think it is {}", "My answer: {}",
    ]
)  # fmt: skip
TAIL = st.sampled_from(
    [
        "", "\n\nExplanation: nothing else is seen.", "\nThe lungs are clear.", "\n\nBased on the image, a mass is seen.",
        "\n\n**Reason:** the margins are smooth.", "\n\nThe heart is not enlarged.",
    ]
)  # fmt: skip


def swapped(text: str) -> str:
    other = {"yes": "no", "Yes": "No", "YES": "NO", "no": "yes", "No": "Yes", "NO": "YES"}
    return re.sub(r"(?<![a-z])(?:yes|no)(?![a-z])", lambda m: other[m.group()], text, flags=re.I)


@given(SAYS, TAIL, st.sampled_from(["yes", "Yes", "YES", "no", "No", "NO"]))
def test_yes_and_no_are_read_alike(says, tail, word):
    text = says.format(word) + tail
    assert answers.yes_no(text) == word.lower()
    assert answers.yes_no(swapped(text)) == swapped(word).lower()
    assert answers.letter(text, ("Yes", "No")) == {"yes": "A", "no": "B"}[word.lower()]
    assert answers.letter(text, ("no", "yes")) == {"yes": "B", "no": "A"}[word.lower()]


WORDS = [
    "yes",
    "no",
    "not",
    "maybe",
    "the answer is",
    "because",
    "it is",
    "there is",
    "fracture",
    "wait",
    "actually",
    "so",
    "or",
    "and",
]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", ", ", ". ", ": ", "\n", "? ", " - "])), max_size=9))
def test_exchanging_yes_and_no_exchanges_the_reading_of_any_text(parts):
    text = "".join(word + stop for word, stop in parts)
    found = answers.yes_no(text)
    assert answers.yes_no(swapped(text)) == (swapped(found) if found else None)


@pytest.mark.parametrize(
    "text",
    [
        "maybe {}", "possibly {}", "It could be {}", "either yes or no", "Yes and no", "yes/no", "I am not sure: {}",
        "The answer is not {}",
        "I would not say {}", "{}, maybe", "{} is not the answer", "It is neither yes nor no.", "{} fracture", "{} idea",
        "{} answer is {}",
        "Yes. No.", "yes no", "It depends.", "It cannot be determined.", "I don't know.", "Certainly! The image shows a lung.",
        "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("word", ["yes", "no"])
def test_says_neither_yes_nor_no(text, word):
    assert answers.yes_no(text.format(word, word)) is None


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("No, wait, yes", "yes"), ("Yes. Actually, no.", "no"), ("Yes or no: no", "no"), ("No (the angles are sharp)", "no"),
        ("True", "yes"), ("False.", "no"), ("The statement is false.", "no"), ("Incorrect", "no"), ("Absolutely not", "no"),
        ("Of course.", "yes"), ("Y", "yes"), ("Answer: N", "no"), ("是的，有骨折", "yes"), ("没有，肺部清晰。", "no"),
        ("答案是否", "no"),
        ("不对。", "no"), ("有", "yes"), ("无", "no"), ("是否", None), ("不正常", None), ("没有骨折", None), ("Sí.", "yes"),
        ("لا،", "no"),
        ('{"answer": "no", "why": "yes it was"}', "no"), ("No. 3 is shown", None), ("Fracture: no\nMass: no", "no"),
        ("Fracture: no\nMass: yes", None), ("True\n\nThe lungs are clear.", "yes"), ("The finding is correct", None),
    ],
)  # fmt: skip
def test_yes_no_in_other_words(text, reading):
    assert answers.yes_no(text) == reading


PICKS = st.sampled_from(
    [
        "{0}", "({0})", "[{0}]", "{0}.", "{0}) {1}", "{0}. {1}", "{0}: {1}", "{0}、{1}", "**{0}**", "**{0}. {1}**", "*{0}*",
        "{1}",
        "a {1}.", "The answer is {0}", "The answer is {0}, {1}", "the answer is: {0}) {1}", "Answer: {1}", "答案：{0}。",
        "答案是{0}",
        "选{0}",
        "选项{0}", "（{0}）", "Option {0}", "I choose {0}.", "I'd go with ({0}).", "It's {0}!", "{0} is correct",
        "{0} because the rest is not.",
        "\\boxed{{{0}}}", "\\boxed{{\\text{{{0}. {1}}}}}", "The image corresponds to ({0})",
        "It is best described by option {0}.",
        "{{\"answer\": \"{0}\"}}", "{0}<|im_end|>", "Final answer:\n{0}", "The image shows {1}.", "{1} ({0})", "<b>{0}</b>",
        "Thus, {0}.",
        "(A) pneumonia\n(B) pleural effusion\n(C) pneumothorax\n(D) normal\n\nAnswer: {0}", "The most likely diagnosis is {1}.",
        "A: pneumonia, B: pleural effusion, C: pneumothorax, D: normal.\nTherefore, the correct option is {0}.",
    ]
)  # fmt: skip


@given(PICKS, TAIL, st.permutations(range(4)), st.integers(0, 3))
def test_every_letter_is_read_alike(picks, tail, order, chosen):
    choices = [CHOICES[i] for i in order]
    text = picks.format(LETTERS[chosen], choices[chosen])
    listed = "pneumonia\n(B)" in picks or "A: pneumonia" in picks
    assert answers.letter(text + tail, CHOICES if listed else choices) == LETTERS[chosen]


DENIES = st.sampled_from(
    [
        "not {0}", "The answer is not {0}", "{0} is wrong", "{0} is incorrect.", "I would not choose {0}",
        "I don't think it is {0}",
        "{1} is ruled out", "{1} is unlikely.", "negative for {1}", "No evidence of {1}.", "Absence of {1}.", "There is no {1}.",
        "{1} is not seen", "{1} can be excluded", "It is not \\boxed{{{0}}}", "Option {0} can be eliminated.", "Rule out {1}.",
        "{1} cannot be excluded.", "maybe {0}", "{0}, maybe", "It could be {1}", "possibly {1}", "Is it {1}?", "without {1}",
        "{0}: wrong", "不是{0}", "No {1}, no mass.", "free of {1}", "The patient does not have {1}.", "{1}, however, is absent.",
    ]
)  # fmt: skip


@given(DENIES, st.integers(0, 2), st.integers(0, 2))
def test_what_is_denied_is_never_credited(denies, i, j):
    text = denies.format(LETTERS[i], CHOICES[i])
    assert answers.letter(text, CHOICES) is None, text
    if i != j:
        more = f"{text}\n\nThe answer is {LETTERS[j]}."
        assert answers.letter(more, CHOICES) == LETTERS[j]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("Answer: A, C", None), ("A, B and C", None), ("A/B", None), ("Both A and B", None),
        ("The answer is A. The answer is B.", None),
        ("The answer is A. Wait, no, the answer is B.", "B"), ("Rule out A and B, leaving C.", "C"), ("Not A, but B", "B"),
        ("A is wrong because the lung is clear, so B.", "B"), ("B instead of A", "B"), ("A: wrong. B: correct. C: wrong.", "B"),
        ("A. Incorrect. The lung is clear.\nB. Correct.\nC. Incorrect.", "B"), ("The answer is A: pleural effusion", None),
        ("Pneumonia, pleural effusion and pneumothorax are unlikely; normal.", "D"), ("Vitamin C", None), ("hepatitis B", None),
        ("Group A streptococcus", None), ("A meniscus is seen", None), ("All of the above", None), ("Answer: E", None),
        ("pleural effusion without pneumothorax", "B"), ("A pneumothorax is seen, not an effusion", "C"),
        ("pleural effusions", "B"),
        ("There is no doubt", None), ("pneumonia and pleural effusion", None), ("The U.S. shows fluid", None),
    ],
)  # fmt: skip
def test_letters_in_discussions(text, letter):
    assert answers.letter(text, CHOICES) == letter


@pytest.mark.parametrize(
    ("choices", "text", "letter"),
    [
        (("effusion", "pleural effusion"), "There is a pleural effusion", "B"), (("1", "10", "100"), "There are 10", "B"),
        (("1", "2"), "Two", "B"), (("1 cm", "11 cm"), "It measures 11 cm.", "B"),
        (("fracture", "no fracture"), "There is no fracture.", "B"),
        (("Yes", "No"), "There is no fracture.", None), (("Yes", "No"), "A. No", None),
        (("Yes, mild", "Yes, severe", "No"), "No, clear.", "C"),
        (("True", "False"), "False.", "B"), (("左侧", "右侧"), "答案是左侧", "A"), (("正常", "肺炎"), "不正常", None),
        (("", "two", "three"), "A", None), (("", "two", "three"), "The answer is B", "B"),
        (("right lung", "left lung"), "The right lung.", "A"),
        (tuple("abcdefghijkl"), "The answer is K", "K"), (("None of these", "lung"), "None of these.", "A"), ((), "A", None),
        (("CT",) * 30, "Z", "Z"), (("CT", "CT", "MRI"), "It shows CT.", None), (("T2", "T2+"), "The stage is T2+.", "B"),
    ],
)  # fmt: skip
def test_choices_of_every_kind(choices, text, letter):
    assert answers.letter(text, choices) == letter


@pytest.mark.parametrize("answer", ["CT", "left lung", "左侧", "pneumonia"])
@pytest.mark.parametrize(
    "text",
    [
        "{}", "{}.", "{}。", "{}！", "“{}”", "**{}**", "The answer is: the {}", "\\boxed{{{}}}",
        "The final answer is \\boxed{{{}}}.",
        "**Final Answer:** {}", "答案：{}。", "Answer: {}\nExplanation: it is seen.", "{}. The image shows a cross-section.",
        "It is {}.",
        "{}\n\nThis can be seen at the margin.", "The image is axial. The answer is {}.", '{{"answer": "{}"}}',
    ],
)  # fmt: skip
def test_an_open_answer_is_right_however_it_is_dressed(text, answer):
    assert is_correct(text.format(answer), Reference(answers=(answer,)))
    assert not is_correct(text.format(answer), Reference(answers=("liver",)))


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("not pneumonia", "pneumonia"), ("Final Answer: no pneumonia", "pneumonia"), ("Pneumonia, effusion", "pneumonia"),
        ("Lung. Liver. Heart.", "lung"), ("Pneumonia. No, it is an effusion of the lung.", "pneumonia"), ("left", "left lung"),
        ("Pneumonia. The answer is effusion.", "pneumonia"), ("Pneumonia. This was ruled out.", "pneumonia"),
        ("The answer is CT. The answer is MRI.", "CT"), ("5", "50"), ("50 %", "50"),
    ],
)  # fmt: skip
def test_no_part_of_an_open_answer_is_credited(text, reference):
    assert not is_correct(text, Reference(answers=(reference,)))


def test_two_is_2_and_yes_is_yes_in_any_language():
    assert is_correct("Two.", Reference(answers=("2",)))
    assert is_correct("是", Reference(answers=("是的",)))
    assert Reference(answers=("没有",)).kind == "yesno"
    assert not is_correct("没有", Reference(answers=("是的",)))


PIECES = [
    "yes",
    "no",
    "(B)",
    "not ",
    " ",
    "\n",
    ". ",
    ", ",
    "\\boxed{",
    "}",
    "{",
    "**",
    "_",
    "`",
    "|",
    "-",
    "<think>",
    "</think>",
    "<answer>",
]
PIECES += [
    "</answer>",
    "pneumonia",
    "答案",
    "是",
    "。",
    '"',
    "'",
    "answer",
    ": ",
    "</s>",
    "# ",
    "$",
    "½",
    "İ",
    "e\u0301",
    "\u200b",
    "°",
    "%",
]


@given(st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_reading_is_the_same_the_second_time(text):
    answer = answers.read(text).answer
    assert answer is None or answers.read(answer).answer == answer
    once = answers.normalise(text)
    assert answers.normalise(once) == once
    assert answers.yes_no(text) in ("yes", "no", None)
    assert answers.letter(text, CHOICES) in (*LETTERS, None)
    assert isinstance(answers.short(text), str)


@pytest.mark.parametrize(
    "part",
    [
        "<think>",
        "</think>",
        "<answer>",
        "\\boxed{",
        "{",
        "A or ",
        "yes, ",
        "the answer is ",
        "(B) ",
        "**",
        "<|channel|>final",
        "no ",
    ],
)
def test_a_megabyte_is_read_in_linear_time(part):
    """In well under a second each where nobody else computes; a quadratic reading takes hours."""
    text = (part * 1_000_000)[:1_000_000]
    for read in (answers.read, answers.yes_no, answers.short, lambda t: answers.letter(t, CHOICES)):
        start = time.process_time()
        read(text)
        assert time.process_time() - start < 30
