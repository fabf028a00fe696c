"""`snnbench env`: what this installation is and where it keeps things."""

from __future__ import annotations

import click

from snnbench.cli.common import answer, json_option


@click.command("env")
@json_option
def env_command(as_json: bool) -> None:
    """Versions, devices and folders of this installation, and how to open MLflow.

    \b
    Example: snnbench env
    """
    import torch

    from snnbench.environment import describe
    from snnbench.paths import data_dir, home_dir
    from snnbench.tracking import ui_command

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    environment = describe(
        "cuda" if gpus else "cpu", threads=torch.get_num_threads(), deterministic=True
    )
    facts = {
        **environment.model_dump(exclude={"device", "deterministic"}),
        "gpus": gpus,
        "home": str(home_dir()),
        "data": str(data_dir()),
        "mlflow_ui": ui_command(),
    }
    packages = ", ".join(f"{k} {v}" for k, v in environment.packages.items())
    commit = f"{environment.commit} {'with changes' if environment.dirty else ''}".strip()
    lines = [
        f"snnbench   {environment.snnbench}, commit {commit}",
        f"python     {environment.python} on {environment.platform}",
        f"packages   {packages}",
        f"processor  {environment.processor}, {environment.threads} threads",
        f"gpus       {', '.join(gpus) or 'none'}",
        f"results    {home_dir()}  (SNNBENCH_HOME moves it)",
        f"data       {data_dir()}  (SNNBENCH_DATA moves it)",
        f"mlflow     {ui_command()}",
    ]
    answer(as_json, facts, "\n".join(lines))
