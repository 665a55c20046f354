"""Who is in which samples: to draw another picture of the same person, as identity conditions want."""

from typing import NamedTuple

import numpy as np

from portraitgen.data.catalog import Catalog


class FacePlace(NamedTuple):
    """Person `track` (from 0) of the sample in row `row` of shard number `shard` of a catalog."""

    shard: int
    row: int
    track: int


class Identities:
    """The people of a catalog whose names are known, and all their faces.

    Held as plain columns, some 16 bytes a face. `names` are sorted.

    Args:
        among: bool [samples of all shards], the samples that faces are drawn from; default all.
    """

    def __init__(self, catalog: Catalog, among: np.ndarray | None = None) -> None:
        self.names = sorted({str(name) for index in catalog.indexes for name in index.identity_names})
        numbers = {name: number for number, name in enumerate(self.names)}
        self._firsts: list[np.ndarray] = []
        self._people: list[np.ndarray] = []
        places = []
        for shard, index in enumerate(catalog.indexes):
            # One more row for the unknown, which -1 points at.
            known = np.array([*(numbers[str(name)] for name in index.identity_names), -1], np.int32)
            rows = np.repeat(np.arange(len(index)), index.num_tracks)
            self._firsts.append(np.cumsum(index.num_tracks) - index.num_tracks)
            self._people.append(known[index.identities])
            tracks = np.arange(len(rows)) - self._firsts[-1][rows]
            places.append(np.stack([np.full(len(rows), shard), rows, tracks], axis=1).astype(np.int32))
        people, every = np.concatenate(self._people), np.concatenate(places)
        if among is not None:
            starts = np.cumsum([0, *(len(index) for index in catalog.indexes)])
            drawn = among[starts[every[:, 0]] + every[:, 1]]
            people, every = people[drawn], every[drawn]
        order = np.argsort(people, kind="stable")
        self._places = every[order]
        self._splits = np.searchsorted(people[order], np.arange(len(self.names) + 1))

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, place: FacePlace) -> str | None:
        """Who it is; None where nobody knows."""
        person = self._person(place)
        return None if person < 0 else self.names[person]

    def faces(self, name: str) -> list[FacePlace]:
        """Every face of a person, in the order of the shards.

        Raises:
            ValueError: the name is not one of `names`.
        """
        return [FacePlace(*place) for place in self._faces(self.names.index(name)).tolist()]

    def has_others(self) -> np.ndarray:
        """bool [samples of all shards]: whether another sample shows the main person, the first one, too."""
        found = np.zeros(sum(len(firsts) for firsts in self._firsts), bool)
        starts = np.cumsum([0, *(len(firsts) for firsts in self._firsts)])
        samples = starts[self._places[:, 0]] + self._places[:, 1]
        for person in range(len(self.names)):
            faces = slice(self._splits[person], self._splits[person + 1])
            shown = np.unique(samples[faces])
            if len(shown) > 1:
                found[samples[faces][self._places[faces, 2] == 0]] = True
        return found

    def another(self, place: FacePlace, rng: np.random.Generator) -> FacePlace | None:
        """A face of the same person in another sample, drawn at random.

        None where nobody knows who it is, and where no other sample shows the person.
        """
        person = self._person(place)
        if person < 0:
            return None
        faces = self._faces(person)
        others = faces[(faces[:, :2] != place[:2]).any(axis=1)]
        return FacePlace(*others[rng.integers(len(others))].tolist()) if len(others) else None

    def _person(self, place: FacePlace) -> int:
        shard, row, track = place
        return int(self._people[shard][self._firsts[shard][row] + track])

    def _faces(self, person: int) -> np.ndarray:
        return self._places[self._splits[person] : self._splits[person + 1]]
