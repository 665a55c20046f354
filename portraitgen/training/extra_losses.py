"""The losses of a run beside the objective's: apart from the network, put together over the processes."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from portraitgen.losses.by_products import attached_zero
from portraitgen.losses.loss import ForwardPass, Loss, LossValue
from portraitgen.losses.mean import Mean


class ExtraLosses:
    """Named losses, frozen, in float32 and in eval mode.

    No submodule of what trains: so checkpoints, weights files, averages and the strategy (which would send
    their parameters around) know nothing of them.

    Args:
        losses: name → loss.
        by_products: those that the system can give.
        system: for the message.

    Raises:
        ValueError: a loss needs a by-product that the system does not give, or has a name of another term.
    """

    def __init__(
        self, losses: Mapping[str, Loss], *, by_products: Collection[str] = (), system: str = ""
    ) -> None:
        if "diffusion" in losses:
            raise ValueError("losses.diffusion: the objective's own loss is called so; use another name")
        for name, loss in losses.items():
            for needed in loss.needs:
                if needed not in by_products:
                    raise ValueError(
                        f"losses.{name} needs {needed!r} of the network; {system} gives "
                        f"{', '.join(sorted(by_products)) or 'nothing beside its prediction'}"
                    )
            loss.requires_grad_(False).float().eval()
        self._losses = dict(losses)
        self.needs = frozenset(needed for loss in losses.values() for needed in loss.needs)
        """By-products that at least one of the losses looks at."""

    @property
    def recognizers(self) -> dict[str, str]:
        """SHA-256 → name of all recognition networks that the losses look with."""
        return {digest: name for loss in self._losses.values() for digest, name in loss.recognizers.items()}

    def __bool__(self) -> bool:
        return bool(self._losses)

    def to(self, device: torch.device) -> None:
        for loss in self._losses.values():
            loss.to(device)

    def __call__(
        self,
        seen: ForwardPass,
        *,
        step: int,
        world_size: int,
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor | Mean]:
        """`loss_<name>`, weighted, scalar, and `<name>_<figure>`; the same names at every step.

        The mean over the processes of `loss_<name>`, and of its gradient, is what one process with all rows
        would get: rows are counted over all of them, once for all losses.

        Args:
            step: batches since the start.
            sum_over_ranks: the sum of a tensor without gradient over all processes; every one calls it.
        """
        if not self._losses:
            return {}
        values = self._values(seen, step)
        counts = sum_over_ranks(torch.stack([value.loss.count.detach() for value in values.values()]))
        share = world_size / torch.where(counts > 0, counts, 1.0)
        zero = attached_zero(seen.prediction, seen.by_products)
        found: dict[str, Tensor | Mean] = {}
        for index, (name, value) in enumerate(values.items()):
            found[f"loss_{name}"] = self._losses[name].weight * share[index] * value.loss.total + zero
            found |= {f"{name}_{figure}": mean for figure, mean in value.figures.items()}
        return found

    def of_clip(self, seen: ForwardPass) -> dict[str, Mean]:
        """The same in validation, of all losses whatever their `every`, as means over rows of many clips."""
        found = {}
        for name, value in self._values(seen, None).items():
            total, count = value.loss.total.detach(), value.loss.count.detach()
            found[f"loss_{name}"] = Mean(self._losses[name].weight * total, count)
            found |= {f"{name}_{figure}": mean for figure, mean in value.figures.items()}
        return found

    def _values(self, seen: ForwardPass, step: int | None) -> dict[str, LossValue]:
        # The losses' networks compute in float32; what they call back (decode, predict) as the rest does.
        with torch.autocast(seen.prediction.device.type, enabled=False):
            return {
                name: self._value(name, loss, seen, due=step is None or step % loss.every == 0)
                for name, loss in self._losses.items()
            }

    def _value(self, name: str, loss: Loss, seen: ForwardPass, *, due: bool) -> LossValue:
        if not due:
            nothing = Mean.of_nothing(seen.prediction)
            return LossValue(nothing, dict.fromkeys(loss.figures, nothing))
        value: LossValue = loss(seen)
        assert {*value.figures} == {*loss.figures}, f"losses.{name} must give {loss.figures} every time"
        return value
