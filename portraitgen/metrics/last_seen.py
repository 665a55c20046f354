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

    Of each clip what was found last is kept, as long as the clip is, or until all who `expect` it have it.
    """

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Pictures, tuple[int, int, Found]] = WeakKeyDictionary()
        self._expected: WeakKeyDictionary[Pictures, int] = WeakKeyDictionary()

    def expect(self, pictures: Pictures) -> None:
        """One more will ask for each chunk of `pictures`; said where what is found is too large to stay."""
        self._expected[pictures] = self._expected.get(pictures, 0) + 1

    def of(self, pictures: Pictures, first: int, look: Callable[[], Found]) -> Found:
        """What `look` finds in the frames of `pictures` that begin at place `first`."""
        seen = self._found.pop(pictures, None)
        if seen is None or seen[0] != first:
            seen = None  # gone before more is found
            seen = first, 0, look()
        _, times, found = seen
        if times + 1 != self._expected.get(pictures):
            self._found[pictures] = first, times + 1, found
        return found


class LastStill(Generic[Found]):
    """Looks once at a picture that goes on, as in a control that copies, over however many chunks it does."""

    def __init__(self) -> None:
        self._seen: tuple[Tensor, Found] | None = None

    def of(self, picture: Tensor, look: Callable[[], Found]) -> Found:
        """What `look` finds in the picture; it is kept until there is another."""
        if self._seen is None or not equal(self._seen[0], picture):
            self._seen = picture.clone(), look()
        return self._seen[1]
