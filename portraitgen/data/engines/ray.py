"""The engine of a Ray cluster, or of a Ray started on this machine: one actor a worker.

The extra `ray` brings it. Ray Core alone: an actor loads what the work carries once and keeps it, jobs go to
whichever actor is free, and one that dies is replaced.
"""

import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from portraitgen.data.engines.engine import Result, Work, python_path
from portraitgen.data.engines.report import Reporter
from portraitgen.data.engines.supervise import Died, Event, Failed, Finished, Progressed, supervise

_REPORT_EVERY_S = 0.5
_WAIT_S = 0.5
_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


class RayEngine:
    """Runs jobs in the actors of a Ray cluster.

    The code and the data lie at the same paths on all its machines.

    Args:
        workers: number of actors.
        address: of the cluster: "auto", "host:port" or "ray://…"; None starts Ray on this machine.
        num_cpus: that Ray may use on this machine, None for all; not for a running cluster.
        cpus_per_worker, gpus_per_worker: that an actor reserves; fractions of a GPU are allowed.
        retries: how often a job is begun anew whose actor died at one and the same item.

    Raises:
        ValueError: Ray is not installed, or a number makes no sense.
    """

    def __init__(
        self,
        workers: int,
        *,
        address: str | None = None,
        num_cpus: int | None = None,
        cpus_per_worker: float = 1,
        gpus_per_worker: float = 0,
        retries: int = 2,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers}: Ray needs at least 1")
        if address is not None and num_cpus is not None:
            raise ValueError("engine.num_cpus is for a Ray on this machine; a running cluster knows its own")
        if num_cpus is not None and num_cpus < cpus_per_worker:
            raise ValueError(
                f"engine.num_cpus={num_cpus} are not enough for one worker of {cpus_per_worker} CPUs"
            )
        try:
            import ray  # noqa: F401
        except ModuleNotFoundError:
            raise ValueError(
                "engine=ray needs the package ray. Run: pip install 'portraitgen[ray]', or take engine=local"
            ) from None
        self.workers, self.retries = workers, retries
        self.address, self.num_cpus = address, num_cpus
        self.cpus_per_worker, self.gpus_per_worker = cpus_per_worker, gpus_per_worker

    def run(
        self, work: Work[Any, Result], jobs: Sequence[Any], *, progress: Callable[[float], None]
    ) -> list[Result]:
        """See `Engine.run`."""
        import ray

        try:
            if self.address is None:
                # By inheritance: with an environment of their own, Ray would start the workers twice.
                with _code_for_children():
                    ray.init(num_cpus=self.num_cpus, include_dashboard=False, **_QUIET)
            else:
                code = {"env_vars": {"PYTHONPATH": python_path()}}
                ray.init(address=self.address, runtime_env=code, **_QUIET)
        except ConnectionError as error:
            raise ValueError(
                f"engine.address={self.address}: no Ray cluster answers there ({error}). Start one "
                "(ray start --head), or leave the address out"
            ) from error
        try:
            self._check_resources(ray.cluster_resources())
            crew = _ActorCrew(work, min(self.workers, len(jobs)), self.cpus_per_worker, self.gpus_per_worker)
            return supervise(crew, jobs, retries=self.retries, progress=progress)
        finally:
            ray.shutdown()

    def _check_resources(self, there: Mapping[str, float]) -> None:
        """Ray would wait for ever for what no machine has."""
        for name, wanted in (("CPU", self.cpus_per_worker), ("GPU", self.gpus_per_worker)):
            if wanted > there.get(name, 0):
                raise ValueError(
                    f"engine.{name.lower()}s_per_worker={wanted}, but the Ray cluster has "
                    f"{there.get(name, 0):g} {name}s: start it with more, or lower the setting"
                )


@contextlib.contextmanager
def _code_for_children() -> Iterator[None]:
    """Processes that are started meanwhile, and theirs, run this very code."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = python_path()
    try:
        yield
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before


class _Board:
    """An actor that knows which item each job is at, even when the job's worker is gone."""

    def __init__(self) -> None:
        self._items: dict[int, str | None] = {}
        self._amounts: dict[int, float] = defaultdict(float)

    def note(self, number: int, item: str | None, amount: float) -> None:
        self._items[number] = item
        self._amounts[number] += amount

    def take(self) -> list[tuple[int, str | None, float]]:
        """Job, its item, and what has been done since the last call."""
        amounts, self._amounts = self._amounts, defaultdict(float)
        return [(number, item, amounts[number]) for number, item in self._items.items()]

    def forget(self, number: int) -> None:
        self._items.pop(number, None)
        self._amounts.pop(number, None)


class _Worker:
    """An actor that does one job at a time."""

    def __init__(self, work: Work[Any, Any], board: Any) -> None:
        self._work, self._board = work, board

    def do(self, number: int, job: Any, skip: Mapping[str, str]) -> Any:
        import ray

        def note(item: str | None, amount: float) -> None:
            ray.get(self._board.note.remote(number, item, amount))

        reporter = Reporter(note, every_s=_REPORT_EVERY_S)
        result = self._work(job, reporter, skip)
        reporter.flush()
        return result


class _ActorCrew:
    """Actors, hired as they are needed and replaced when they die."""

    def __init__(self, work: Work[Any, Any], size: int, num_cpus: float, num_gpus: float) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self.size = size
        self._ray = ray
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote  # its types know neither this strategy nor an actor's methods
        self._board = actor(num_cpus=0, scheduling_strategy=here)(_Board).remote()
        self._worker = actor(num_cpus=num_cpus, num_gpus=num_gpus)(_Worker)
        self._work = ray.put(work)
        self._free: list[Any] = []
        self._running: dict[Any, tuple[int, Any]] = {}

    def start(self, number: int, job: Any, skip: Mapping[str, str]) -> None:
        actor = self._free.pop() if self._free else self._worker.remote(self._work, self._board)
        self._running[actor.do.remote(number, job, dict(skip))] = (number, actor)

    def wait(self) -> Iterator[Event]:
        ended, _ = self._ray.wait(list(self._running), timeout=_WAIT_S)
        for number, item, amount in self._ray.get(self._board.take.remote()):
            yield Progressed(number, item, amount)
        for reference in ended:
            number, actor = self._running.pop(reference)
            self._ray.get(self._board.forget.remote(number))
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # the work raised
                yield Failed(number, _as_raised(error))
            except self._ray.exceptions.RayError as error:
                yield Died(number, f"was lost to Ray ({str(error).splitlines()[0]})")
            else:
                self._free.append(actor)
                yield Finished(number, result)


def _as_raised(error: Any) -> BaseException:
    """What the work raised, with Ray's account of where as its cause."""
    raised: BaseException = error.cause
    raised.__cause__ = error
    return raised
