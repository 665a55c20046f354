"""Compute a feature of every sample of a shard."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from portraitgen.data.catalog import Catalog
from portraitgen.data.engines.engine import Report
from portraitgen.data.features.feature import CaptionFeature, Feature, Value
from portraitgen.data.features.reader import FeatureReader
from portraitgen.data.features.store import write_features
from portraitgen.data.reader import ClipReader
from portraitgen.data.sample import DataError
from portraitgen.media.container import VideoError


@dataclass(frozen=True, slots=True)
class ExtractFeature:
    """The work on one shard, see data/engines; returns what went wrong with single samples.

    A sample that cannot be read, or of which there is no value (a silent one has no speech), has an empty
    place: training skips it, as it skips all that cannot be read.

    Args:
        feature: what is computed.
        folder: of this feature, as `FeatureFacts.save` makes it.
    """

    feature: Feature
    folder: Path

    def __call__(self, shard: Path, report: Report, skip: Mapping[str, str]) -> list[str]:
        problems: list[str] = []
        write_features(self.folder, shard, self._values(shard, report, skip, problems))
        report(None, 0)
        return problems

    def _values(
        self, shard: Path, report: Report, skip: Mapping[str, str], problems: list[str]
    ) -> Iterator[tuple[str, Value | None]]:
        catalog = Catalog(str(shard))
        reader, index = ClipReader(catalog), catalog.indexes[0]
        captions = None
        if isinstance(self.feature, CaptionFeature) and self.feature.captions is not None:
            captions = FeatureReader(catalog, self.feature.captions)
        for row in range(len(index)):
            key = index.key(row)
            report(key, 0)
            value = None
            try:
                if key in skip:
                    raise DataError(skip[key])
                sample = reader.sample(0, row)
                if captions is not None:
                    sample = replace(sample, caption=captions.text(0, row))
                value = self.feature(sample)
            # Weights were looked at before: what is wrong here is wrong with the sample.
            except (DataError, VideoError) as error:
                problems.append(f"{shard.stem}: {key}: {error}")
            yield key, value
            report(key, 1)
