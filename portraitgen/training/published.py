"""What a system says in its `weights.py` of weights that others published: how they become ours, and back.

`convert.py` finds there `KINDS`, name → `Kind`, and `publish`: a network with its weights → the files of the
published layout, name → tensors; a `.safetensors` name is written as such, all others in PyTorch's format.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of published weights.

    Attributes:
        meaning: what the source is, one line for people.
        read: the tensors of a source, in our network's names.
        experiment: whose network they fill.
        settings: overrides of the experiment under which the weights were published.
        gives: patterns of the network's tensors that the source must hold, all of them.
        on_base: what `gives` leaves out is the network's base, which no weights file holds.
        landmark_scheme: of the drawings that a network for pictures was trained on.
        adapt: overrides that a source itself asks for, such as the rank of its adapter; None: none.
        computed: tensors that no source holds, of a network with this state; None: there are none.
    """

    meaning: str
    read: Callable[[str], dict[str, Tensor]]
    experiment: str
    settings: tuple[str, ...] = ()
    gives: tuple[str, ...] = ("*",)
    on_base: bool = False
    landmark_scheme: str | None = None
    adapt: Callable[[str], tuple[str, ...]] | None = None
    computed: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether a whole network comes of it, for generate.py, and not only a part to start from."""
        return self.on_base or self.gives == ("*",)
