"""Check the option dictionaries that come from configs before they reach a constructor."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def reject_unknown(section: str, options: Mapping[str, object], accepted: Iterable[str]) -> None:
    """Raise ``ValueError`` for the first key of `options` that is not in `accepted`, with a suggestion.

    `section` is the place in the config, e.g. "denoising_unet": the message names ``denoising_unet.<key>``.
    """
    known = sorted(accepted)
    for key in options:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known options: {', '.join(known)}"
            raise ValueError(f"{section}.{key}: unknown option; {hint}")
