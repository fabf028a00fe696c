"""`snnbench cluster`: workers for `--scheduler`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from snnbench.cli.common import answer, json_option, note
from snnbench.preemption import Preempted

_LOOK_EVERY_S = 1.0


@click.group("cluster")
def cluster_command() -> None:
    """Workers on other machines, for --scheduler of other commands.

    \b
    Example: snnbench cluster slurm --jobs 4 --cores 8 --memory 32GB --walltime 24:00:00 --script
    """


@cluster_command.command("slurm")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Slurm jobs.")
@click.option(
    "--cores",
    type=click.IntRange(1),
    required=True,
    help="Cores of one job, each of which is a worker.",
)
@click.option(
    "--gpus",
    type=click.IntRange(0),
    default=0,
    help="GPUs of one job; then each GPU is a worker, and not each core.",
)
@click.option("--memory", metavar="SIZE", required=True, help="Memory of one job, such as 32GB.")
@click.option(
    "--walltime",
    metavar="[D-]HH:MM:SS",
    required=True,
    help="Of one job; longer than a seed takes, because a seed that its end cuts off is begun anew.",
)
@click.option(
    "--interface",
    metavar="NAME",
    help="Network that this machine and the nodes share, such as ib0; default: that of the default route.",
)
@click.option("--partition", metavar="NAME", help="Partition (queue) of Slurm.")
@click.option("--account", metavar="NAME", help="Account of Slurm.")
@click.option(
    "--directive",
    "directives",
    multiple=True,
    metavar="OPTION",
    help="One more option of sbatch, such as --directive --constraint=icelake. May be repeated.",
)
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what workers say, which the nodes reach, too; default: SNNBENCH_HOME/slurm.",
)
@click.option("--script", is_flag=True, help="Only print the job script; needs no Slurm.")
@json_option
def slurm(
    jobs: int,
    cores: int,
    gpus: int,
    memory: str,
    walltime: str,
    interface: str | None,
    partition: str | None,
    account: str | None,
    directives: tuple[str, ...],
    logs: Path | None,
    script: bool,
    as_json: bool,
) -> None:
    """Ask Slurm for workers, and keep them until Ctrl-C.

    Called on a login node. Starts a Dask scheduler here, submits the jobs, prints the address for
    --scheduler, tells how many workers are there, and replaces jobs that reach their walltime. Ctrl-C or
    SIGTERM cancels all jobs. Needs dask-jobqueue: pip install 'snnbench[slurm]'.

    Whoever reaches the scheduler's port can run code as you (docs/scale.md, Trust).

    \b
    Example: snnbench cluster slurm --jobs 4 --cores 8 --memory 32GB --walltime 24:00:00 --interface ib0
    """
    from snnbench.cluster_slurm import SlurmRequest, job_script, open_slurm
    from snnbench.paths import home_dir

    request = SlurmRequest(
        jobs=jobs,
        cores=cores,
        memory=memory,
        walltime=walltime,
        log_folder=logs or home_dir() / "slurm",
        gpus=gpus,
        interface=interface,
        partition=partition,
        account=account,
        directives=directives,
    )
    if script:
        text = job_script(request)
        answer(as_json, {"script": text}, text.removesuffix("\n"))
        return
    try:
        with open_slurm(request) as cluster:
            facts = {
                "scheduler": cluster.address,
                "jobs": jobs,
                "workers": request.workers,
                "logs": str(request.log_folder),
            }
            answer(as_json, facts, f"--scheduler {cluster.address}")
            note(f"jobs submitted: {jobs}; logs in {request.log_folder}; Ctrl-C cancels them")
            here = -1
            while True:
                if cluster.workers != here:
                    here = cluster.workers
                    note(f"{here} of {request.workers} workers are there")
                ended, problem = cluster.renew()
                if ended:
                    note(problem or f"jobs that ended and are submitted anew: {ended}")
                time.sleep(_LOOK_EVERY_S)
    except Preempted:
        raise
    except KeyboardInterrupt:
        note("the jobs are cancelled")  # the usual end, and no failure
