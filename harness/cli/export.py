"""harness export: runs in the forms that others read, and our tasks in the form of another harness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import options as opt
from harness.errors import UserError

if TYPE_CHECKING:
    from leaderboard.exports import Exported

app = typer.Typer(help="Write runs, or tasks, for other programs.", no_args_is_help=True)

RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of them such as runs/MODEL.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="File to write instead of the screen.")]
Share = Annotated[bool, typer.Option("--share/--no-share", help="Leave out commands, paths, addresses, and the names of images.")]
RELATIONSHIPS = ("first_party", "third_party", "collaborative", "other")


@app.callback()
def _group() -> None:
    pass


def _read(runs: list[Path], share: bool) -> list[Exported]:
    from leaderboard.exports import read

    return read(runs, shared=share)


def _put(text: str, out: Path | None) -> None:
    """To the file, or on the screen as it is."""
    from harness.cli import ui
    from harness.runs import write_atomic

    if out is None:
        print(text, end="")
        return
    write_atomic(out, text)
    ui.say(f"wrote {out}")


@app.command("eee")
def eee(
    runs: RunsArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("every_eval_ever"),
    organization: Annotated[str, typer.Option("--organization", help="Who ran the evaluation.")] = "unknown",
    relationship: Annotated[str, typer.Option("--relationship", help=f"To the model: {', '.join(RELATIONSHIPS)}.")] = "other",
    share: Share = True,
    json: opt.Json = False,
) -> None:
    """Every Eval Ever's JSON.

    A file a run with intervals and judges, and one with a line a sample.
    """
    from harness.cli import ui
    from leaderboard.exports import eee as form

    if relationship not in RELATIONSHIPS:
        raise UserError(f"--relationship {relationship}: no such choice", hint=f"one of: {', '.join(RELATIONSHIPS)}")
    found = _read(runs, share)
    written = [str(form.write(run, out, organization=organization, relationship=relationship)) for run in found]
    if json:
        ui.print_json({"written": written})
        return
    for path in written:
        ui.line(path)


@app.command("model-index")
def model_index(
    runs: RunsArgument,
    out: Out = None,
    eval_results: Annotated[
        Path | None,
        typer.Option("--eval-results", help="Also write .eval_results/TASK.yaml into this folder."),
    ] = None,
    share: Share = True,
) -> None:
    """A model's scores as YAML for its hub README."""
    from leaderboard.exports import hub

    found = _read(runs, share)
    _put(hub.model_index(found), out)
    if eval_results is not None:
        for name, text in hub.eval_results(found).items():
            _put(text, eval_results / name)


@app.command("model-card")
def model_card(runs: RunsArgument, out: Out = None, share: Share = True) -> None:
    """A section for a model's card, in Markdown.

    Scores, intervals, and how they were measured.
    """
    from leaderboard.exports import hub

    _put(hub.model_card(_read(runs, share)), out)


@app.command("lm-eval-results")
def lm_eval_results(runs: RunsArgument, out: Out = None, share: Share = True) -> None:
    """A model's scores as a results JSON of lm-eval."""
    import json

    from leaderboard.exports import lm_eval

    _put(json.dumps(lm_eval.document(_read(runs, share)), indent=2, ensure_ascii=False, allow_nan=False) + "\n", out)


@app.command("lm-eval")
def lm_eval(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; lm_eval gets it as --include_path.")],
    tasks: opt.Tasks,
    prompt: opt.PromptName = None,
    data: opt.Data = "auto",
    data_dir: opt.DataDir = None,
    split: Annotated[str | None, typer.Option("--split", help="Each task's test split by default.")] = None,
    limit: opt.Limit = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, help="Each task's own by default.")] = None,
    on_bad_row: Annotated[str, typer.Option("--on-bad-row", help="fail before anything is written, or skip and count.")] = "fail",
    max_image_pixels: opt.MaxImagePixels = None,
    model: Annotated[str | None, typer.Option("--model", help="The checkpoint, so that lm-eval sends its own prompts.")] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write tasks as lm-eval YAML.

    With their rows and images; no code in it.

    harness export lm-eval exported --tasks slake,vqa_rad --prompt question
    """
    from harness.cli import ui
    from harness.cli.evaluate import bad_row_policy, load_tasks
    from harness.lm_eval_export import export, model_folder

    ui.set_quiet(quiet)
    policy = bad_row_policy(on_bad_row)
    loaded = load_tasks(
        tasks, data=data, data_dir=data_dir, split=split, limit=limit, on_bad_row=policy, max_pixels=max_image_pixels
    )  # fmt: skip
    chosen = [(task, task.spec.get_prompt(prompt)) for task in loaded]  # a wrong name fails before anything is written
    written = [export(task, p, out, max_new_tokens=max_new_tokens) for task, p in chosen]
    names = ",".join(path.stem for path in written)
    weights = model_folder(model, out) if model else "CHECKPOINT"
    command = (
        f"lm_eval run --include_path {out} --tasks {names} --model hf-multimodal "
        f"--model_args pretrained={weights} --apply_chat_template"
    )
    if json:
        ui.print_json({"written": [str(p) for p in written], "command": command})
        return
    for path in written:
        ui.line(str(path))
    ui.line(f"run with: {command}")
    if not model:
        ui.note("lm-eval sends some models' opening token twice (Gemma 3, Pixtral, Mllama, ...); --model CHECKPOINT mends that")
