"""Check the option dictionaries that come from configs before they reach a constructor."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def reject_unknown(section: str, options: Mapping[str, object], accepted: Iterable[str]) -> None:
    """Raise ``ValueError`` that lists the keys of `options` that are not in `accepted`, with suggestions.

    `section` is the place in the config, e.g. "denoising_unet": the message names ``denoising_unet.<key>``.
    """
    known = sorted(accepted)
    problems = []
    for key in options:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known options: {', '.join(known)}"
            problems.append(f"{section}.{key}: unknown option; {hint}")
    if problems:
        raise ValueError("\n".join(problems))
