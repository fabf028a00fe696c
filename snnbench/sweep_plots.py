"""Optuna's own plots of a study, drawn with matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnbench.bench import save_pictures
from snnbench.study_store import loaded_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def study_figures(folder: Path, name: str, storage: str | None = None) -> dict[str, Figure]:
    """Figures by file name: history, slice, importance, parallel-coordinates; pareto where there are several
    objectives. A study without two complete trials has none; what its trials cannot tell is left out.
    """
    import matplotlib
    import optuna.visualization.matplotlib as draw
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.trial import TrialState

    with loaded_study(folder, name, storage) as study:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < 2:
            return {}
        names = study.user_attrs.get("objectives", ["accuracy"])
        accuracy: dict[str, Any] = {"target_name": "validation accuracy"}
        if len(names) > 1:
            accuracy["target"] = lambda trial: trial.values[0]
        drawn: dict[str, Callable[[], Any]] = {
            "history": lambda: draw.plot_optimization_history(study, **accuracy),
            "slice": lambda: draw.plot_slice(study, **accuracy),
            "parallel-coordinates": lambda: draw.plot_parallel_coordinate(study, **accuracy),
        }
        if len({trial.values[0] for trial in complete}) > 1:
            # to this evaluator small values are the good ones
            drawn["importance"] = lambda: draw.plot_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial: -trial.values[0],
                target_name="validation accuracy",
            )
        if len(names) > 1:
            drawn["pareto"] = lambda: draw.plot_pareto_front(study, target_names=names)
        with matplotlib.rc_context({"backend": "agg"}), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these plots are new to Optuna
            return {key: _figure(plot()) for key, plot in drawn.items()}


def _figure(axes: Any) -> Figure:
    """The figure of what Optuna returns, axes or an array of them; no longer pyplot's."""
    import matplotlib.pyplot as plt
    import numpy as np

    figure: Figure = np.ravel(axes)[0].figure
    plt.close(figure)
    # several axes with one colour bar are laid out already, and must not be again
    figure.set_layout_engine("none")
    # now, since powers of ten on an axis are mathematics, which our own style writes as it stands
    figure.draw_without_rendering()
    return figure


def save_study_figures(figures: dict[str, Figure], folder: Path) -> list[Path]:
    """Write figures as SVG and PNG, with all labels that stand beside the axes."""
    import matplotlib

    with matplotlib.rc_context({"savefig.bbox": "tight"}):
        return save_pictures(folder, figures)
