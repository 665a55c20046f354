"""Weights that others published as weights files of ours, and ours in the published names."""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from portraitgen.media.files import replacing, writable_folder
from portraitgen.runs.config.check import ConfigError, check_config, find_problems
from portraitgen.runs.config.schema import CONF
from portraitgen.runs.config.targets import did_you_mean
from portraitgen.runs.convert_lora import export_adapters, import_adapter
from portraitgen.runs.train.rundir import describe_commit
from portraitgen.systems.aniportrait.audio2mesh import Audio2Mesh
from portraitgen.systems.aniportrait.audio2pose import Audio2Pose
from portraitgen.systems.aniportrait.audio_weights import from_published_audio, published_audio_state
from portraitgen.systems.aniportrait.weights import (
    from_animatediff,
    from_published,
    from_stable_diffusion,
    position_tables,
    read_published,
    to_published,
)
from portraitgen.training.weights import load_into, load_weights, matches, require_fit, save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of published weights.

    read: the tensors of a source, in our network's names.
    experiment: whose network they fill.
    settings: overrides of the experiment under which the weights were published.
    gives: patterns of the network's tensors that the source must hold, all of them.
    landmark_scheme: of the drawings that a network for pictures was trained on.
    """

    read: Callable[[str], dict[str, Tensor]]
    experiment: str
    settings: tuple[str, ...] = ()
    gives: tuple[str, ...] = ("*",)
    landmark_scheme: str | None = None

    @property
    def is_whole(self) -> bool:
        """Whether a whole network comes of it, for generate.py, and not only a part to start from."""
        return self.gives == ("*",)


def convert(config: DictConfig) -> None:
    """Write `config.out` with the weights of `config.source`.

    Raises:
        ValueError: a setting, or a source that cannot be read or does not hold exactly what it must.
    """
    check_config(config)
    if config.kind == PUBLISHED:
        _publish(Path(config.source), writable_folder(Path(config.out)))
        return
    if config.kind == LORA:
        _convert_lora(config)
        return
    if config.kind not in KINDS:
        names = [*KINDS, PUBLISHED, LORA]
        hint = did_you_mean(config.kind, names)
        raise ValueError(f"kind={config.kind}: there are {', '.join(names)}{hint}")
    if Path(config.out).suffix != ".safetensors":
        raise ValueError(f"out={config.out}: weights files end in .safetensors")
    kind = KINDS[config.kind]
    settings = _experiment(kind.experiment, [*kind.settings, *config.settings], models=config.paths.models)
    network = build_on_meta(settings["model"]["network"])
    tensors = kind.read(config.source)
    own = {name: value for name, value in network.state_dict().items() if matches(name, kind.gives)}
    tensors |= position_tables(own)
    require_fit(
        own,
        tensors,
        source=config.source,
        target=f"{type(network).__name__} of experiment={kind.experiment}",
    )
    facts = {"data": settings["data"], "shards": [], "converted_from": config.source, **describe_commit()}
    if kind.landmark_scheme is not None:
        facts["landmark_scheme"] = kind.landmark_scheme
    save_weights(
        config.out,
        tensors,
        config=settings["model"] if kind.is_whole else {},
        step=0,
        system="aniportrait",
        provenance=facts,
    )
    log.info("%s: %d tensors of %s", config.out, len(tensors), config.source)


def _convert_lora(config: DictConfig) -> None:
    """From a folder of diffusers to a weights file, or the other way: `out` says which."""
    source, out = Path(config.source), Path(config.out)
    if out.suffix != ".safetensors":
        export_adapters(source, out)
        return
    facts: dict[str, Any] = describe_commit()
    model = None
    if config.into is not None:
        settings = _experiment(config.into, [*config.settings], models=config.paths.models)
        model = settings["model"]
        facts = {"data": settings["data"], "shards": [], **facts}
    import_adapter(source, out, model=model, build=build_on_meta, provenance=facts)


def build_on_meta(node: Mapping[str, Any]) -> nn.Module:
    """The network that settings describe, without memory for its weights."""
    with torch.device("meta"):
        network: nn.Module = instantiate(node, _convert_="all")
    return network


def _experiment(name: str, overrides: list[str], *, models: str) -> dict[str, Any]:
    """The resolved settings of train.py's experiment `name`."""
    given = [f"experiment={name}", "data.shards=none", f"paths.models={models}", *overrides]
    # Within a command Hydra has been told already where the configuration lies.
    known = GlobalHydra.instance().is_initialized()
    with nullcontext() if known else initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", given)
    problems = find_problems(config)
    if problems:
        raise ConfigError(problems)
    settings: Any = OmegaConf.to_container(config, resolve=True)
    return settings


def _publish(source: Path, out: Path) -> None:
    """Write a weights file of ours as files in the published names, in PyTorch's format."""
    tensors, facts = load_weights(source)
    if not facts.get("config"):
        raise ValueError(f"{source} does not say what it belongs to: give a weights file of a run")
    network = build_on_meta(facts["config"]["network"])
    name = type(network).__name__
    if isinstance(network, Audio2Mesh | Audio2Pose):
        model = type(network)(**{k: v for k, v in facts["config"]["network"].items() if k != "_target_"})
        load_into(model, tensors, source=source)
        files = {f"{name.lower()}.pt": published_audio_state(model)}
    else:
        require_fit(network.state_dict(), tensors, source=source, target=name)
        files = {f"{file}.pth": state for file, state in to_published(tensors).items()}
    for file, state in files.items():
        with replacing(out / file) as temporary:
            torch.save(state, temporary)
        log.info("%s: %d tensors", out / file, len(state))


def _read_stable_diffusion(source: str) -> dict[str, Tensor]:
    """A single file, or a folder as diffusers writes it: of the pipeline or of the U-Net."""
    path = Path(source)
    if path.is_dir():
        names = [f"diffusion_pytorch_model.{kind}" for kind in ("safetensors", "fp16.safetensors", "bin")]
        places = [path / part / name for part in ("unet", ".") for name in names]
        found = [place for place in places if place.is_file()]
        if not found:
            raise ValueError(f"source={source}: no unet/diffusion_pytorch_model.safetensors in this folder")
        path = found[0]
    hint = "Stable Diffusion 1.5 is stable-diffusion-v1-5/stable-diffusion-v1-5 on the hub (OpenRAIL-M)"
    return from_stable_diffusion(read_published(path, hint=hint))


def _read_aniportrait(source: str) -> dict[str, Tensor]:
    """A folder with the published files; motion modules in their own or with the denoising U-Net."""
    folder = Path(source)
    files = {name: folder / f"{name}.pth" for name in ("denoising_unet", "reference_unet", "pose_guider")}
    motion = folder / "motion_module.pth"
    if motion.is_file():
        files["motion_module"] = motion
    return from_published(**{name: read_published(path) for name, path in files.items()})


def _read_animatediff(source: str) -> dict[str, Tensor]:
    hint = "mm_sd_v15_v2.ckpt is guoyww/animatediff on the hub (Apache-2.0)"
    return from_animatediff(read_published(source, hint=hint))


def _read_audio(source: str) -> dict[str, Tensor]:
    return from_published_audio(read_published(source))


def _read_wav2vec2(source: str) -> dict[str, Tensor]:
    """A folder as transformers writes it, or a hub id."""
    from transformers import Wav2Vec2Model

    try:
        loaded: Any = Wav2Vec2Model.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    except OSError as error:
        first = str(error).strip().splitlines()[0]
        raise ValueError(
            f"source={source}: no wav2vec 2.0 there ({first}). Give a folder with config.json and weights, "
            "or a hub id such as facebook/wav2vec2-base-960h (Apache-2.0)"
        ) from error
    model, loading = loaded
    # The stand-in for masked features is not part of all checkpoints, and is never used here.
    lost = [name for name in loading["missing_keys"] if not name.endswith("masked_spec_embed")]
    if lost:
        raise ValueError(f"source={source} lacks {len(lost)} tensors of wav2vec 2.0: {', '.join(lost[:8])}")
    return {f"audio_encoder.{name}": value for name, value in model.state_dict().items()}


PUBLISHED = "published"
LORA = "lora"
MOTION = "denoising_unet.*motion_modules.*"
KINDS = {
    "stable_diffusion": Kind(
        _read_stable_diffusion, "aniportrait/stage1", gives=("denoising_unet.*", "reference_unet.*")
    ),
    "animatediff": Kind(_read_animatediff, "aniportrait/stage2", gives=(MOTION,)),
    "wav2vec2": Kind(_read_wav2vec2, "aniportrait/audio2mesh", gives=("audio_encoder.*",)),
    "aniportrait": Kind(
        _read_aniportrait,
        "aniportrait/stage2",
        settings=("sampling=aniportrait_released", "++model.network.reference_dtype=float16"),
        landmark_scheme="mediapipe478",
    ),
    "audio2mesh": Kind(
        _read_audio,
        "aniportrait/audio2mesh",
        settings=(
            "model.network.num_points=468",
            "model.network.coordinates=3",
            "model.landmark_scheme=mediapipe478",
            "model.frame_rate=30",
        ),
    ),
    "audio2pose": Kind(
        _read_audio,
        "aniportrait/audio2pose",
        settings=(
            "model.in_3d=true",
            "model.landmark_scheme=mediapipe478",
            "model.frame_rate=30",
            "sampling.turn_scale=0.5",
        ),
    ),
}
"""What convert.py reads, by name."""
