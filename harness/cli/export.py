"""harness export: our tasks in the form of another harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options as opt

app = typer.Typer(help="Write tasks for another harness.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


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
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Write tasks as lm-eval YAML with their rows and images; no code in it.

    harness export lm-eval exported --tasks slake,vqa_rad --prompt question
    """
    from harness.cli import ui
    from harness.cli.evaluate import bad_row_policy, load_tasks
    from harness.lm_eval_export import export

    ui.set_quiet(quiet)
    loaded = load_tasks(tasks, data=data, data_dir=data_dir, split=split, limit=limit, on_bad_row=bad_row_policy(on_bad_row))
    chosen = [(task, task.spec.get_prompt(prompt)) for task in loaded]  # a wrong name fails before anything is written
    written = [export(task, p, out, max_new_tokens=max_new_tokens) for task, p in chosen]
    names = ",".join(path.stem for path in written)
    command = (
        f"lm_eval run --include_path {out} --tasks {names} --model hf-multimodal "
        "--model_args pretrained=CHECKPOINT --apply_chat_template"
    )
    if json:
        ui.print_json({"written": [str(p) for p in written], "command": command})
        return
    for path in written:
        ui.out.print(str(path), soft_wrap=True, highlight=False)
    ui.out.print(f"run with: {command}", soft_wrap=True, highlight=False)
