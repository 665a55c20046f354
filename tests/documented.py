"""The commands that documents and scripts tell the reader to type."""

import re
import shlex

from portraitgen.runs.config.schema import CONF

ROOT = CONF.parent
DOCUMENTS = [
    path
    for path in (
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile")),
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "experiments").rglob("*.*")),
        *sorted(CONF.rglob("*.yaml")),
        *sorted((ROOT / "portraitgen/systems").rglob("README.md")),
    )
    if path.is_file()
    and path.suffix in (".md", ".sh", ".sbatch", ".yaml", "")
    and path.name != "add-a-system.md"  # of a system that is not installed: tests/toys runs its commands
]
_COMMAND = re.compile(
    r"(?:python|sbatch|submit\.sh)(?: +-\S+)* +(?:\S+/)?"
    r"(train|generate|evaluate|prepare|convert|demo)\.(?:py|sbatch)([^\n`]*)"
)


def commands() -> list[tuple[str, str, str]]:
    """(document, command, arguments) of each command in the documents; a line that ends in \\ goes on."""
    found = []
    for path in DOCUMENTS:
        text = re.sub(r"\\\n[\s#]*", " ", path.read_text())
        for name, arguments in _COMMAND.findall(text):
            found.append((str(path.relative_to(ROOT)), name, arguments.strip()))
    return found


def words_of(arguments: str) -> list[str]:
    """The words of a command line without what follows it: comments, pipes, redirections, punctuation."""
    return shlex.split(re.split(r"\s[#|>;(]|\s&&", arguments)[0].rstrip(":,.);"))


def is_override(word: str) -> bool:
    return re.match(r"[+~]*[\w/.@]+=", word) is not None
