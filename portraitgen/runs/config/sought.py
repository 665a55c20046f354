"""The figures that a sweep looks at: one, or two of which no trial may be the best by both."""

from omegaconf import DictConfig

from portraitgen.training.figure_names import GRADED


def optimized_metrics(config: DictConfig) -> list[str]:
    """Names of the columns of metrics.csv that `config.optimized_metric` names; none, one or two."""
    found = config.optimized_metric
    if found is None:
        return []
    return [found] if isinstance(found, str) else [str(name) for name in found]


def is_graded(name: str) -> bool:
    """Whether callbacks.grading gives it."""
    return name.startswith(GRADED)
