"""The callbacks of a run, in their order; some are told what only the run knows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from portraitgen.data.catalog import Catalog
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.manifest import shard_digest
from portraitgen.metrics.grader import UNKNOWN
from portraitgen.runs.pretrained import library_bases
from portraitgen.runs.secrets import without_secrets
from portraitgen.runs.train.clip_grading import ClipGrading, GradedClips
from portraitgen.runs.train.rundir import describe_commit

if TYPE_CHECKING:
    from portraitgen.training.preemption import Preemption


def build_grading(config: DictConfig, settings: dict[str, Any]) -> ClipGrading | None:
    """What grades clips while training, built first of all, since it knows the names of all figures.

    Args:
        config: of train.py.
        settings: the same, resolved.

    Raises:
        ValueError: a setting cannot be, or names a figure that no grader gives.
    """
    node = (config.callbacks or {}).get("grading")
    if not node:
        return None
    data = settings["data"]
    shards, span = data.get("val_shards") or data["shards"], data.get("val_span") or [0.0, 1.0]
    grading: ClipGrading = instantiate(node, _convert_="all")(
        clips=GradedClips(shards, span), model=without_secrets(settings["model"]), models=config.paths.models
    )
    return grading


def build_callbacks(
    config: DictConfig,
    settings: dict[str, Any],
    *,
    system: str,
    catalog: Catalog,
    preemption: "Preemption | None",
    grading: ClipGrading | None,
) -> dict[str, Any]:
    """Name → callback, in the order in which they are called.

    Args:
        config, settings: see `build_grading`.
        system: name of the system that trains.
        catalog: of the data.
        preemption, grading: those that are there already.
    """
    there = {"preemption": preemption, "grading": grading}
    callbacks: dict[str, Any] = {
        str(name): there[name] if name in there else instantiate(node, _convert_="all")
        for name, node in (config.callbacks or {}).items()
        if node
    }
    if "weights" in callbacks:
        bases = library_bases(config.model)
        callbacks["weights"] = callbacks["weights"](
            config=without_secrets(settings["model"]),
            system=system,
            provenance={
                "run": config.name,
                "data": without_secrets(settings["data"]),
                "landmark_scheme": catalog.landmark_scheme,
                "shards": [shard_digest(shard) for shard in catalog.shards],
                **({"bases": bases} if bases else {}),
                **describe_commit(),
            },
        )
    return callbacks


def stored_recognizers(catalog: Catalog, features: Sequence[str]) -> dict[str, str]:
    """The recognition networks that stored features were made with, as `Learner.stored_recognizers` has them.

    Args:
        catalog: of the data.
        features: as the data module takes them.
    """
    found = {}
    for made in (FeatureReader(catalog, name).depends_on for name in features):
        name = made.get("network") or made.get("recognizer")
        if isinstance(name, str):
            found[str(made.get("recognizer_file") or f"{UNKNOWN}{name}")] = name
    return found
