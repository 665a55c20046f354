"""Graders as the configuration lists them: built before anything is read, or skipped with the reason."""

import logging
from collections.abc import Iterable, Mapping

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from portraitgen.faces.backend import FaceBackend
from portraitgen.metrics.checks import Check
from portraitgen.metrics.grader import UNKNOWN, Grader, MissingWeights, RecognizingGrader
from portraitgen.metrics.scores import MetricInfo
from portraitgen.runs.config.targets import did_you_mean

log = logging.getLogger(__name__)

PLACE = "metrics.graders"


def build_graders(
    config: DictConfig, *, strict: bool, place: str = PLACE
) -> tuple[dict[str, Grader], dict[str, str]]:
    """The graders by name, and by name why others were skipped: which weights are missing.

    Args:
        config: name -> node with a `_target_`, or null to leave one out.
        strict: missing weights are an error.
        place: where the configuration lists them, for messages.

    Raises:
        ValueError: weights are missing and `strict`, or a grader refuses its settings.
    """
    graders: dict[str, Grader] = {}
    skipped: dict[str, str] = {}
    for key, node in config.items():
        name = str(key)
        if node is None:
            continue
        try:
            graders[name] = instantiate(node, _convert_="all")
        except InstantiationException as error:
            missing = _missing_weights(error)
            if missing is None:
                raise
            skipped[name] = missing.advice(f"{place}.{name}.{missing.setting}")
    if skipped and strict:
        listed = "\n  ".join(f"{name}: {why}" for name, why in skipped.items())
        raise ValueError(f"strict=true, and weights are missing:\n  {listed}")
    for name, why in skipped.items():
        log.warning("skipped %s: %s", name, why)
    if not graders:
        raise ValueError(f"{place} leaves nothing to grade: none of the listed graders has its weights")
    return graders, skipped


def refuse_own_judges(
    graders: Mapping[str, Grader],
    recognizers: Mapping[str, str],
    backend: FaceBackend,
    *,
    place: str = PLACE,
) -> None:
    """Identity is not graded by a network that the generator was trained to please or is told it by.

    Args:
        recognizers: SHA-256 → name of the networks that its losses and conditions look with.
        place: where the configuration lists the graders, for the message.

    Raises:
        ValueError: a grader looks with one of them; a name alone decides where no digest is known.
    """
    for name, grader in graders.items():
        if not isinstance(grader, RecognizingGrader) or not recognizers:
            continue
        network, digest = grader.looks_with(backend)
        if any(_is_same(network, digest, *each) for each in recognizers.items()):
            raise ValueError(
                f"{place}.{name} looks with {network} (SHA-256 {digest or 'unknown'}), and so does a loss or "
                "condition that these weights are trained with: take another recognizer, or leave it out "
                f"({place}.{name}=null)"
            )


def _is_same(network: str, digest: str | None, other_digest: str, other: str) -> bool:
    """Whether it is one network by its weights; by its name where those of one are not known."""
    known = digest is not None and not other_digest.startswith(UNKNOWN)
    return digest == other_digest if known else network == other


def _missing_weights(error: BaseException | None) -> MissingWeights | None:
    while error is not None and not isinstance(error, MissingWeights):
        error = error.__cause__
    return error


def figures_of(graders: Mapping[str, Grader], *, place: str = PLACE) -> dict[str, MetricInfo]:
    """What all graders together give, in their order.

    Args:
        place: where the configuration lists them, for the message.

    Raises:
        ValueError: two graders give a figure of one name.
    """
    owners: dict[str, str] = {}
    metrics: dict[str, MetricInfo] = {}
    for name, grader in graders.items():
        for figure, metric in grader.metrics.items():
            if figure in owners:
                raise ValueError(f"{place}: both {owners[figure]} and {name} give {figure!r}; leave one out")
            owners[figure], metrics[figure] = name, metric
    return metrics


def check_names(checks: Iterable[Check], metrics: Mapping[str, MetricInfo], skipped: Iterable[str]) -> None:
    """ValueError for a check of a figure that no grader gives, unless one was skipped that might."""
    for check in checks:
        if check.metric not in metrics and not [*skipped]:
            raise ValueError(
                f"metrics.checks: no grader gives {check.metric!r}{did_you_mean(check.metric, metrics)}; "
                f"known are {', '.join(metrics)}"
            )
        if check.metric in metrics and metrics[check.metric].higher_is_better is None:
            raise ValueError(
                f"metrics.checks: of {check.metric!r} neither more nor less is better, since it should equal"
                " that of the true frames; check its distance from them instead"
            )
