"""The command line: `snnbench NOUN VERB`. Modules of verbs are imported when they are called."""

from __future__ import annotations

import importlib
import os
import resource
import sys

import click

from snnbench import __version__, preemption
from snnbench.errors import SnnbenchError, unknown_name

# name: (module, one line for --help); importing all modules for --help would make it slow
COMMANDS = {
    "quickstart": ("quickstart", "The whole path on the embedded data set, in a few minutes."),
    "data": ("data", "Make, check, look at and export data sets."),
    "models": ("models", "What is in the zoo."),
    "train": ("run", "Train one model with one seed."),
    "audit": ("audit", "What choosing the epoch on the test split would have given."),
    "eval": ("run", "Evaluate trained runs again: as their records say, or on changed samples."),
    "bench": ("run", "Train a model with several seeds under the task's protocol."),
    "sweep": ("sweep", "Search for hyperparameters on validation data."),
    "cluster": ("cluster", "Workers on other machines, for --scheduler."),
    "track": ("track", "MLflow's view of runs: send what waits, show runs anew."),
    "board": ("board", "Add, verify, build and show leaderboards."),
    "reproduce": ("reproduce", "Published experiments, done again, with a verdict."),
    "export": ("export", "Networks as NIR graphs; cards of models and data sets."),
    "import": ("import_", "Networks from NIR graphs."),
    "env": ("env", "Versions, devices and folders of this installation."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported only when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"snnbench.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, f"{name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown_name("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="snnbench")
@click.option("--offline", is_flag=True, help="Open no connection, as with SNNBENCH_OFFLINE=1.")
def cli(offline: bool) -> None:
    """Benchmark spiking networks: sound to spikes, spikes to a verified leaderboard row.

    \b
    Example: snnbench quickstart
    """
    if offline:
        # the environment, so that processes which this one starts know it, too
        os.environ["SNNBENCH_OFFLINE"] = "1"


def main() -> None:
    """Entry point: run a command and turn every expected failure into one line and an exit code."""
    # torch's threads spin while they wait for each other; on a busy machine that makes small layers
    # ten times slower. Read when torch is imported, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        with preemption.noticed():
            code = cli.main(standalone_mode=False)
    except SnnbenchError as error:
        _fail(str(error), error.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        # click makes the one of the other
        preempted = isinstance(error.__cause__ or error, preemption.Preempted)
        why, code = (" by SIGTERM", preemption.EXIT_CODE) if preempted else ("", 130)
        _fail(f"stopped{why}; run the same command again to continue", code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except MemoryError:
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024  # Linux counts in KiB
        _fail(
            f"out of memory, with {peak_mib} MiB in use at the peak; a smaller train.batch_size or fewer"
            " --workers need less",
            1,
        )
    except OSError as error:
        _fail(f"{error.filename or 'file system'}: {error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    click.echo(f"snnbench: {message}", err=True)
    sys.exit(code)
