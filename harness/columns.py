"""Which column of a table holds what: the `columns` of a task's YAML (layout `table`, tasks/layouts/)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic import field_validator as check


def _named(value: Any) -> Any:
    return {x: x for x in value} if isinstance(value, list) and all(isinstance(x, str) for x in value) else value


#: One column, or several.
Names = Annotated[
    list[str],
    Field(min_length=1),
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v, json_schema_input_type=str | list[str]),
]
#: Slice names -> columns; a list names both at once.
Slices = Annotated[dict[str, str], BeforeValidator(_named, json_schema_input_type=dict[str, str] | list[str])]


#: What an id's name ends in: patient_id, StudyInstanceUID.
_IDS = r"(?:[\W_]*(?:ids?|no|nr|num|number|instance|identifier|uid|uuid|guid|hash|key))+"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Columns(Strict):
    """Which column holds what, for layout `table`. A column that is named must be there.

    A name may be a path into the row (`qa.question`), alternatives (`filename | image`), a pattern for several columns
    (`image_*`, `"[A-Z]"`), and, for question, answer, reasoning and cluster, a text with names in braces
    (`"Findings: {findings}"`).
    """

    id: str | None = None
    """The row's id; its number, from 0, where this is left out."""
    image: Names | None = None
    """A path, a list of paths, bytes, base64, also as the hub stores them. Several columns: every one that the row fills."""
    images_optional: bool = False
    """Whether rows without an image are asked without one; else they are bad."""
    question: str = "question"
    """The question. `<image 1>` in it is the place of the first picture; without such places pictures come first."""
    ask: str | None = None
    """The same question for every row, where the table has none: "Write the report."."""
    messages: str | None = None
    """A conversation (ShareGPT, LLaVA, OpenAI) that holds the question and, unless `answer` is named, the answer."""
    earlier_turns: bool = False
    """Whether the model is shown the turns of `messages` before the last question; else a longer conversation is a bad row."""
    answer: Names = ["answer"]
    """The acceptable answers: a text or number, a list of them, or several columns."""
    choices: Names | None = None
    """A list, an object by letter, or the JSON or Python text of one; or one column for each choice, of which a row may leave
    some empty. Shown under the question unless it shows them already."""
    choices_in: Literal["question"] | None = None
    """The choices stand in the question ("A. CT", "(B) MRI")."""
    answer_as: Literal["auto", "letter", "words", "index", "number", "yesno"] = "auto"
    """How `answer` names a choice: "(B)" or "B", its words, 0-based index, 1-based number. auto takes a letter or
    the words and refuses what could be two, a number among them. yesno: every answer is a yes or no, also as true, Y or 1."""
    reasoning: str | None = None
    """Reference reasoning, where there is any."""
    rubric: str | None = None
    """Criteria with points, as a list of objects (`criterion`, `points`, `tags`), in place of an answer. Scored by `--judge
    rubric:NAME`."""
    split: str | None = None
    """Keep the rows where this column holds the split's name, for files that hold all splits."""
    cluster: str | None = None
    """The patient, study or case. Rows of one are not independent: intervals and held-out splits go by it, instead of by
    image."""
    slices: Slices = {}
    """What scores are broken down by: {name: column}, or a list of columns."""

    @check("choices_in")
    @classmethod
    def _one_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("choices"):
            raise ValueError("choices are named twice; leave out `choices` or `choices_in`")
        return value

    @check("messages")
    @classmethod
    def _one_question(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("ask"):
            raise ValueError("the question is named twice; leave out `ask` or `messages`")
        return value

    @check("ask")
    @classmethod
    def _same_for_all(cls, value: str | None) -> str | None:
        if value and re.search(r"\{[^{}]+\}", value):
            raise ValueError(
                "holds a name in braces, and `ask` is the same for every row; a text written from columns is `question`"
            )
        return value

    @property
    def cluster_noun(self) -> str | None:
        """What a cluster is, in one word: patient for patient_id or PatientID."""
        if not self.cluster:
            return None
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", re.sub(r"[{}]", "", self.cluster.rpartition(".")[2])).lower()
        bare = re.sub(rf"(?<=.){_IDS}$", "", words).strip("_ -")
        patient = ("patient", "p", "pt", "mr", "mrn")
        return "patient" if bare in patient else "cluster" if re.fullmatch(f"(?:{_IDS})?", bare) else bare.replace("_", " ")
