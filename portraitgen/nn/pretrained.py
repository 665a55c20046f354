"""Networks of billions of parameters, filled from what others have trained, and what of them still is theirs.

diffusers builds a model on the meta device and fills it file by file. Added here are an architecture that
stands in our configuration, parts that the files lack, and a record of the tensors that came from them: what
equals a base is neither written into weights files nor hashed at every start.
"""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from portraitgen.nn.options import reject_unknown

Model = TypeVar("Model", bound=nn.Module)

PRECISIONS = ("float32", "bfloat16", "float16")
_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Base:
    """The files that a module was filled from, and its tensors as they were then.

    Attributes:
        source: folder or hub id, as it was given.
        files: with the weights.
    """

    source: str
    files: tuple[Path, ...]
    _tensors: Mapping[int, tuple[Tensor, int, int]]

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` came from the files and was not written to, moved or cast since."""
        known = self._tensors.get(id(tensor))
        if known is None or known[0] is not tensor:
            return False
        return (tensor._version, tensor.data_ptr()) == known[1:]


def build_model(
    kind: type[Model],
    options: Mapping[str, Any] | None,
    base: Mapping[str, Any] | None = None,
    *,
    fresh: Sequence[str] = (),
    section: str = "base",
) -> Model:
    """A model of diffusers: with random weights, or filled from a base.

    On the meta device (`with torch.device("meta")`) nothing is filled, and no file is needed but the base's
    config.json where `options` is None.

    Args:
        kind: class of `diffusers.models`.
        options: arguments of the class; None: those of the base.
        base: `path` (folder or hub id) and, if need be, `subfolder`, `variant` and `dtype` (float32, which is
            the default, bfloat16 or float16; parts that the class keeps in float32 stay there). None: random
            weights.
        fresh: patterns of parameters that the base may lack; they start as the class initialises them, in
            float32.
        section: where `base` stands in the network's configuration, for messages.

    Raises:
        ValueError: there is no such model, it was built with other options, or it lacks parameters that are
            not `fresh`.
    """
    if base is None:
        if options is None:
            raise ValueError(f"{section}: not set, and no options say what to build")
        return kind(**options)
    reject_unknown(section, base, ("path", "subfolder", "variant", "dtype"))
    if "path" not in base:
        raise ValueError(f"{section}.path: not set")
    dtype = base.get("dtype") or "float32"
    if dtype not in PRECISIONS:
        raise ValueError(f"{section}.dtype={dtype!r}: choose {', '.join(PRECISIONS)}")
    on_meta = torch.get_default_device().type == "meta"
    if on_meta and options is not None:
        return _in_precision(kind(**options), getattr(torch, dtype), fresh)
    folder = model_folder(base["path"], base.get("subfolder"), section=f"{section}.path")
    settings = _read_config(folder, section)
    if options is None and settings.get("_class_name") != kind.__name__:
        found = settings.get("_class_name", "model of another library")
        raise ValueError(f"{section}: {folder} holds a {found}, not a {kind.__name__}")
    with torch.device("meta"):
        outline: Any = kind.from_config(settings) if options is None else kind(**options)  # type: ignore[attr-defined]
    if on_meta:
        return _in_precision(outline, getattr(torch, dtype), fresh)  # type: ignore[no-any-return]
    _require_same_options(f"{section}: {folder}", _plain(outline.config), settings)
    return _fill(kind, outline.config, folder, base, fresh=fresh, dtype=getattr(torch, dtype))


def _in_precision(outline: Model, dtype: torch.dtype, fresh: Sequence[str]) -> Model:
    """A model without memory, each parameter in the precision that filling it would give it."""
    kept = (*fresh, *(f"*{part}*" for part in getattr(outline, "_keep_in_fp32_modules", None) or ()))
    for name, parameter in outline.named_parameters():
        if not any(fnmatchcase(name, pattern) for pattern in kept):
            parameter.data = parameter.data.to(dtype)
    return outline


def remember_base(
    model: nn.Module,
    source: str,
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    fresh: Collection[str] = (),
) -> None:
    """Note that `from_pretrained` has just filled `model` from `source`, except for the names in `fresh`.

    Raises:
        ValueError: the files cannot be found.
    """
    files = weight_files(model_folder(source, subfolder), variant)
    tensors = {
        id(tensor): (tensor, tensor._version, tensor.data_ptr())
        for name, tensor in _named_tensors(model)
        if name not in fresh
    }
    given = source if subfolder is None else str(Path(source, subfolder))
    model.portraitgen_base = Base(given, files, tensors)  # type: ignore[assignment]


def bases(module: nn.Module) -> dict[str, Base]:
    """The bases that submodules of `module` were filled from, by the submodule's name."""
    found = ((name, getattr(each, "portraitgen_base", None)) for name, each in module.named_modules())
    return {name: base for name, base in found if isinstance(base, Base)}


def base_tensors(module: nn.Module) -> dict[str, str]:
    """Name of each parameter and buffer that still is what a base gave → name of the part (see `bases`)."""
    return {
        f"{part}.{name}".lstrip("."): part
        for part, base in bases(module).items()
        for name, tensor in _named_tensors(module.get_submodule(part))
        if base.holds(tensor)
    }


def model_folder(source: str, subfolder: str | None = None, *, section: str = "pretrained") -> Path:
    """The folder `source`, or where the hub's cache on this machine has the model of that id.

    Raises:
        ValueError: it is neither; `section` names the setting.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(source, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError) as error:
            raise ValueError(
                f"{section}: there is no model in {source}; put it there, or set this to where it is"
            ) from error
    folder = folder / subfolder if subfolder else folder
    if not folder.is_dir():
        raise ValueError(f"{section}: there is no folder {folder}")
    return folder


def weight_files(folder: Path, variant: str | None = None) -> tuple[Path, ...]:
    """The files of a model's weights, as diffusers and transformers name them; several if it is sharded.

    Raises:
        ValueError: there are none, or not all.
    """
    middle = f".{variant}" if variant else ""
    for ending in ("safetensors", "bin"):
        for stem in _STEMS:
            name = f"{stem}{middle}.{ending}"
            index = folder / f"{stem}.{ending}.index{middle}.json"
            if not index.is_file():
                index = folder / f"{name}.index.json"
            if index.is_file():
                shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
                files = tuple(folder / Path(shard).name for shard in shards)
                lost = [file.name for file in files if not file.is_file()]
                if lost:
                    raise ValueError(f"{folder} lacks {', '.join(lost)}: fetch the model again")
                return files
            if (folder / name).is_file():
                return (folder / name,)
    names = " or ".join(f"{stem}{middle}.safetensors" for stem in _STEMS)
    raise ValueError(f"{folder} has no weights: there should be a {names}")


def _fill(
    kind: type[Model],
    config: Mapping[str, Any],
    folder: Path,
    base: Mapping[str, Any],
    *,
    fresh: Sequence[str],
    dtype: torch.dtype,
) -> Model:
    files = weight_files(folder, base.get("variant"))
    if any(file.suffix != ".safetensors" for file in files):
        raise ValueError(f"{files[0]} is no .safetensors file: fetch the model in that format")
    options = {name: value for name, value in config.items() if not name.startswith("_")}
    # What is missing or of no use is said here, by name.
    chatty = logging.getLogger("diffusers.models.modeling_utils")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        model, loading = kind.from_pretrained(  # type: ignore[attr-defined]
            str(folder),
            variant=base.get("variant"),
            torch_dtype=dtype,
            use_safetensors=True,
            low_cpu_mem_usage=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} does not fit {kind.__name__}: {error}") from error
    finally:
        chatty.setLevel(level)
    missing, surplus = sorted(loading["missing_keys"]), sorted(loading["unexpected_keys"])
    lost = [name for name in missing if not any(fnmatchcase(name, pattern) for pattern in fresh)]
    if lost or surplus:
        problems = [_listed("not there", lost), _listed("there only", surplus)]
        raise ValueError(f"{folder} does not fit {kind.__name__}: {'; '.join(filter(None, problems))}")
    if missing:
        for name, parameter in _initialised(kind, options, missing).items():
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner).register_parameter(leaf, parameter)
    remember_base(
        model, base["path"], subfolder=base.get("subfolder"), variant=base.get("variant"), fresh=missing
    )
    return model  # type: ignore[no-any-return]


def _initialised(
    kind: type[nn.Module], options: Mapping[str, Any], names: Collection[str]
) -> dict[str, nn.Parameter]:
    """These parameters of a new model, as its constructor makes them; no other takes memory.

    A constructor makes its parameters in the same order each time: the first run says where in it they come.
    """
    with _parameters_on_meta() as made:
        outline = kind(**options)
    order = {id(parameter): index for index, parameter in enumerate(made)}
    wanted = {order[id(parameter)] for name, parameter in outline.named_parameters() if name in names}
    with _parameters_on_meta(but=wanted):
        model = kind(**options)
    return {name: parameter for name, parameter in model.named_parameters() if name in names}


@contextmanager
def _parameters_on_meta(but: Collection[int] = ()) -> Iterator[list[nn.Parameter]]:
    """Inside the block parameters lose their memory as modules get them, but for those of these numbers.

    Yields the parameters in the order of their making.
    """
    made: list[nn.Parameter] = []
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            if len(made) not in but:
                parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
            made.append(parameter)
        register(module, name, parameter)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign, assignment]
    try:
        yield made
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _read_config(folder: Path, section: str) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise ValueError(f"{section}: {folder} is no model of diffusers: it has no config.json") from error
    except ValueError as error:
        raise ValueError(f"{section}: {folder / 'config.json'} is damaged ({error})") from error
    return settings


def _require_same_options(place: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    shared = [name for name in theirs if name in ours and not name.startswith("_")]
    other = [name for name in shared if ours[name] != theirs[name]]
    if other:
        lines = [f"{name}: {theirs[name]!r} there, {ours[name]!r} in the configuration" for name in other]
        raise ValueError("\n  ".join([f"{place} was built with other options:", *lines]))


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON keeps it: tuples are lists."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
    return plain


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}" if names else ""
