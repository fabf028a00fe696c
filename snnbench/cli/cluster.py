"""`snnbench cluster`: workers for --scheduler."""

from __future__ import annotations

import time

import click

from snnbench.cli.common import answer, json_option, note


@click.group("cluster")
def cluster_command() -> None:
    """Workers on other machines, for --scheduler of other commands.

    \b
    Example: snnbench cluster slurm --jobs 4 --cores 8 --memory 32GB
    """


@cluster_command.command("slurm")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Slurm jobs.")
@click.option(
    "--cores",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Of each job, with a worker for each.",
)
@click.option("--gpu", is_flag=True, help="A GPU for each job, and one worker in all.")
@click.option("--memory", default="4GB", show_default=True, metavar="SIZE", help="Of each job.")
@click.option(
    "--walltime", default="24:00:00", show_default=True, metavar="TIME", help="Of each job."
)
@click.option("--interface", metavar="NAME", help="Network that the nodes share, as ib0.")
@click.option("--partition", metavar="NAME")
@click.option("--account", metavar="NAME")
@click.option(
    "--directive",
    "directives",
    multiple=True,
    metavar="OPTION",
    help="One more for sbatch, as --directive=--constraint=a100. May be repeated.",
)
@click.option(
    "--prologue",
    multiple=True,
    metavar="LINE",
    help="Shell before the worker starts, as 'module load cuda'. May be repeated.",
)
@click.option("--script", is_flag=True, help="Show the job's script and submit nothing.")
@json_option
def slurm(
    jobs: int,
    cores: int,
    gpu: bool,
    memory: str,
    walltime: str,
    interface: str | None,
    partition: str | None,
    account: str | None,
    directives: tuple[str, ...],
    prologue: tuple[str, ...],
    script: bool,
    as_json: bool,
) -> None:
    """Start a Dask scheduler here and its workers as Slurm jobs, until Ctrl-C, which cancels them.

    The address it prints is for --scheduler of `bench` and `sweep run`. Start it where Slurm takes jobs and
    where it may stay, in tmux for example, from the environment that the workers are to have.

    \b
    Example: snnbench cluster slurm --jobs 4 --cores 8 --memory 32GB --interface ib0
    """
    from snnbench.cluster_slurm import JobSpec, slurm_cluster
    from snnbench.preemption import Preempted

    spec = JobSpec(
        cores, memory, walltime, gpu, interface, partition, account, directives, prologue
    )
    with slurm_cluster(spec) as cluster:
        if script:
            answer(as_json, {"script": cluster.script}, cluster.script)
            return
        cluster.submit(jobs)
        wanted = jobs * spec.workers
        facts = {"address": cluster.address, "jobs": jobs, "workers": wanted}
        answer(as_json, facts, f"--scheduler {cluster.address}")
        try:
            there = -1
            while True:
                if cluster.workers != there:
                    there = cluster.workers
                    note(f"{there} of {wanted} workers; Ctrl-C ends them")
                time.sleep(1)
        except Preempted:
            raise
        except KeyboardInterrupt:
            note("cancelling the jobs")
