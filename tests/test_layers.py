"""Who may import whom: the law of docs/architecture.md, read from the source of every module."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import portraitgen

PACKAGE = Path(portraitgen.__file__).parent

MAY_IMPORT = {
    "media": set(),
    "faces": {"media"},
    "diffusion": set(),
    "nn": set(),
    "losses": {"media", "faces"},
    "data": {"media", "faces"},
    "metrics": {"media", "faces"},
    "training": {"media", "diffusion", "nn", "losses", "metrics"},
    "systems": {"nn", "diffusion", "losses", "faces", "media", "training"},
    "runs": {
        *("media", "faces", "diffusion", "nn", "losses", "data", "metrics", "training", "systems"),
    },
}
"""Layer → layers that it may import beside itself."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of all that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from portraitgen import media` names the layer in the second half.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer_of(parts: tuple[str, ...]) -> str:
    """The layer; each system is one of its own."""
    return f"systems/{parts[1]}" if parts[0] == "systems" and len(parts) > 2 else parts[0]


def test_every_folder_is_a_layer_of_the_law():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(MAY_IMPORT)


def test_the_law_has_no_cycles():
    layers = list(MAY_IMPORT)
    for number, layer in enumerate(layers):
        assert MAY_IMPORT[layer] <= set(layers[:number]), layer


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_what_its_layer_may(path):
    parts = path.relative_to(PACKAGE).parts
    names = imports(path)
    ours = {tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "portraitgen"}
    if path.name == "__init__.py":
        assert not names, "package files hold a docstring only"
        return
    own = layer_of(parts)
    for imported in ours:
        layer = layer_of((*imported, ""))
        assert layer == own or layer.split("/")[0] in MAY_IMPORT[parts[0]], (
            f"imports portraitgen.{'.'.join(imported)}"
        )
    if parts[0] != "runs":
        assert not {name for name in names if name.split(".")[0] in ("hydra", "omegaconf")}


def test_no_files_import_each_other():
    """Imports between files have an order, also those inside functions: each file can be read on its own."""
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in MODULES}
    graph = {name: {target for target in imports(path) if target in names} for name, path in names.items()}
    for name, path in names.items():  # `from module import member` names the module, too
        graph[name] |= {owner for target in imports(path) if (owner := target.rpartition(".")[0]) in names}
    TopologicalSorter(graph).prepare()  # a CycleError names the files


def test_formulas_are_pure():
    """diffusion and nn know no trainer, no data and no pictures on a disk."""
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] in ("diffusion", "nn", "losses"):
            roots = {name.split(".")[0] for name in imports(path)}
            assert not roots & {"lightning", "av", "cv2", "PIL", "wandb"}, path


SYSTEMS = sorted(path.name for path in (PACKAGE / "systems").iterdir() if (path / "__init__.py").is_file())


@pytest.mark.parametrize("layer", ["runs", "data", "training", "metrics"])
def test_no_layer_below_or_beside_knows_a_system(layer):
    """A system is found by what its weights file names: no import of one, and none by name.

    Only what is done is looked at, not what a docstring explains; ConsisID is also the name of a data format
    and of published metrics, and papers have tables.
    """
    for path in MODULES:
        parts = path.relative_to(PACKAGE).parts
        if parts[0] != layer:
            continue
        tree = ast.parse(path.read_text())
        assert not [name for name in imports(path) if name.startswith("portraitgen.systems.")], path
        explained = {
            id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
        }  # docstrings, of attributes too
        said = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained
        }
        named = {name for name in SYSTEMS for text in said if text.split("/")[0].split(".")[0] == name}
        if "consisid" in str(path):
            named -= {"consisid"}
        assert not named, f"{path} names {named}"
