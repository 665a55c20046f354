"""What was found in the frames of each clip last: the true ones stand beside several methods, and a picture
that is copied goes on from chunk to chunk.
"""

from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, equal

from portraitgen.metrics.pictures import Pictures

Found = TypeVar("Found")


class LastSeen(Generic[Found]):
    """Looks at a chunk of a clip once, however many methods it stands beside.

    Of each clip what was found last is kept, as long as the clip is.
    """

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Pictures, tuple[int, Found]] = WeakKeyDictionary()

    def of(self, pictures: Pictures, first: int, look: Callable[[], Found]) -> Found:
        """What `look` finds in the frames of `pictures` that begin at place `first`."""
        seen = self._found.get(pictures)
        if seen is None or seen[0] != first:
            seen = first, look()
            self._found[pictures] = seen
        return seen[1]


class LastStill(Generic[Found]):
    """Looks once at a picture that goes on, as in a control that copies, over however many chunks it does."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Found] | None = None

    def of(self, picture: Tensor, look: Callable[[], Found]) -> Found:
        """What `look` finds in the picture; it is kept until there is another."""
        if self._seen is None or not equal(self._seen[0], picture):
            self._seen = picture.clone(), look()
        return self._seen[1]
