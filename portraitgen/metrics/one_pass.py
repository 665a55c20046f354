"""All graders on the clips of one video, in one pass over its frames."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from portraitgen.media.allocator import keeping_freed_memory
from portraitgen.metrics.grader import Chunk, ClipGrader, GradedClip, Grader, SetGrader, Watch
from portraitgen.metrics.scores import Grades


def grade_together(clips: Mapping[str, GradedClip], graders: Mapping[str, Grader]) -> dict[str, Grades]:
    """Method -> all figures of its clip.

    The frames of all clips are read side by side, once, a chunk at a time; every grader sees each chunk, and
    graders of sets take it in. (Faces are looked for in a pass of their own, when the first grader asks.)
    """
    clip_graders = [grader for grader in graders.values() if isinstance(grader, ClipGrader)]
    sets = [grader for grader in graders.values() if isinstance(grader, SetGrader)]
    begun = {method: [grader.grade(clip) for grader in clip_graders] for method, clip in clips.items()}
    # One grader after the other: what it keeps for the methods of a chunk is gone when the next one looks.
    watches: list[tuple[str, Watch[Any], list[Any]]] = [
        (method, watch, [])
        for of_methods in zip(*begun.values(), strict=True)
        for method, watch in zip(begun, of_methods, strict=True)
        if isinstance(watch, Watch)
    ]
    for chunks in _side_by_side(clips) if watches or sets else ():
        for method, watch, kept in watches:
            with keeping_freed_memory():
                kept.append(watch.see(chunks[method]))
        for grader in sets:
            for method, clip in clips.items():
                with keeping_freed_memory():
                    grader.add(clip, chunks[method])
    concluded = {}
    for _, watch, kept in watches:
        with keeping_freed_memory():  # what each frees leaves behind it
            concluded[id(watch)] = watch.conclude(kept)
    found = {}
    for method, each in begun.items():
        scores: dict[str, np.ndarray] = {}
        reasons: dict[str, str] = {}
        for one in each:
            grades = concluded[id(one)] if isinstance(one, Watch) else one
            scores |= grades.scores
            reasons |= grades.reasons
        found[method] = Grades(scores, reasons)
    return found


def grade_clip(grader: ClipGrader, clip: GradedClip) -> Grades:
    """The figures that one grader gives of one clip."""
    return grade_together({clip.method: clip}, {"": grader})[clip.method]


def add_clip(grader: SetGrader, clip: GradedClip) -> None:
    """Take the whole of one clip into the set of its method."""
    grade_together({clip.method: clip}, {"": grader})


def _side_by_side(clips: Mapping[str, GradedClip]) -> Iterator[dict[str, Chunk]]:
    """The next frames of each clip, with the true ones; pictures that several clips share are read once."""
    videos = {
        id(pictures): pictures
        for clip in clips.values()
        for pictures in (clip.pictures, clip.truth)
        if pictures is not None
    }
    first = 0
    for read in zip(*(pictures.frames.chunks() for pictures in videos.values()), strict=True):
        here = dict(zip(videos, read, strict=True))
        yield {
            method: Chunk(
                first, here[id(clip.pictures)], None if clip.truth is None else here[id(clip.truth)]
            )
            for method, clip in clips.items()
        }
        first += len(read[0])
