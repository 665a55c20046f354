"""A video as clips: one pass to find the faces, a second to cut out, measure and encode each tracked one."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from portraitgen.data.prepare.clip import PlannedClip, plan_clips
from portraitgen.data.prepare.cut_out import ClipCut
from portraitgen.data.prepare.frame_rate import resample_frames
from portraitgen.data.prepare.scan import Scan, scan_video
from portraitgen.data.prepare.settings import PrepareSettings
from portraitgen.data.prepare.sources import Source, SourceError
from portraitgen.data.sample import ClipSample
from portraitgen.faces.backend import FaceBackend
from portraitgen.faces.tracking import trail_faces
from portraitgen.media.audio import StoredSound
from portraitgen.media.container import VideoError
from portraitgen.media.decode import iter_frames

# Share of the first pass in the work on a frame, for the progress alone; dlib, see benchmarks/prepare.py.
_LOOKING = 0.65


def prepare_video(
    source: Source,
    backend: FaceBackend,
    settings: PrepareSettings,
    folder: Path,
    note: Callable[[str, str], None],
    progress: Callable[[float], None] = lambda amount: None,
) -> Iterator[ClipSample]:
    """Every person of a video as clips, in the order in which the clips end.

    Pictures are streamed, faces and sound lie on the disk: what is held of a clip is its encoder.

    Args:
        folder: empty; for what is needed until the last sample is taken.
        note: called with (stage, what happened) for each part of the video that is left out.
        progress: called with the share of a frame's work that is done; the shares of a frame sum up to 1.

    Raises:
        VideoError: no video, or cut short.
        SourceError: no clip can be made of it.
    """
    with (folder / "faces").open("w+b") as file:
        # A pack of models without one is asked only where an embedding is wanted.
        embed_every = settings.embed_every if settings.embed_every and backend.embedding_dim else 0
        scan = scan_video(
            source,
            backend,
            fps=settings.exact_fps,
            file=file,
            embed_every=embed_every,
            frame_done=lambda: progress(_LOOKING),
        )
        num_frames, num_damaged = len(scan.faces), int(scan.damaged.sum())
        if num_damaged:
            note("decode", f"{source.name}: {num_damaged} of {num_frames} frames are damaged and left out")
        if scan.jumps:
            note(
                "decode",
                f"{source.name}: its time stamps jump {len(scan.jumps)} times; a shot begins at each",
            )
        if scan.info.wrong_stamps:
            note("decode", f"{source.name}: {scan.info.wrong_stamps} time stamps are wrong and were replaced")
        # A track must not cross damage: frames on its two sides may be far apart.
        edges = np.flatnonzero(np.diff(scan.damaged)) + 1
        trails = trail_faces(
            scan.faces,
            cuts=sorted({*scan.cuts, *scan.jumps, *edges.tolist()}),
            min_score=backend.min_score,
            identity_threshold=backend.identity_threshold if embed_every else None,
        )
        if not trails:
            raise SourceError(source, "detect", _why_no_face(scan, backend))
        image_size = (scan.info.height, scan.info.width)
        clips, too_short = plan_clips(trails, scan.faces, image_size=image_size, settings=settings)
        if not clips:
            longest = max(len(trail.frames) for trail in trails)
            reason = f"no face stays for min_frames={settings.min_frames} frames, the longest for {longest}"
            raise SourceError(source, "track", reason)
        if too_short:
            note(
                "track", f"{source.name}: {too_short} shorter than min_frames={settings.min_frames} left out"
            )
        main = trails[0].embedding
        for sample in _cut_out(
            source, scan, clips, folder, backend.landmark_scheme, settings, note, progress
        ):
            (track,) = sample.tracks
            # The source's identity is that of the person seen longest, in whichever shot.
            if main is None or track.embedding is None:
                is_main = len(trails) == 1
            else:
                is_main = bool(track.embedding @ main >= backend.identity_threshold)
            identity_name = source.identity_name if is_main else None
            yield replace(
                sample, caption=source.caption, tracks=(replace(track, identity_name=identity_name),)
            )


def _why_no_face(scan: Scan, backend: FaceBackend) -> str:
    """What is wrong with a video in which nobody can be followed: damage is no lack of faces."""
    num_frames, intact = len(scan.faces), int((~scan.damaged).sum())
    if not intact:
        return f"all of its {num_frames} frames are damaged; fetch it again"
    shown = sum(
        any(face.score >= backend.min_score for face in scan.faces[frame]) for frame in range(num_frames)
    )
    of = f"its {num_frames} frames" if intact == num_frames else f"its {intact} frames that are not damaged"
    if scan.fps < scan.info.fps:
        of += f" looked at (fps={float(scan.fps):g} of {float(scan.info.fps):g})"
    if not shown:
        return f"no face found in {of} ({backend.name})"
    return f"a face is found in {shown} of {of}, never in enough in a row to be followed"


def _cut_out(
    source: Source,
    scan: Scan,
    clips: list[PlannedClip],
    folder: Path,
    landmark_scheme: str,
    settings: PrepareSettings,
    note: Callable[[str, str], None],
    progress: Callable[[float], None],
) -> Iterator[ClipSample]:
    """Second pass: the samples of the planned clips, each as soon as its last frame has gone by."""
    origin = source.origin(settings.licence)
    waiting = deque(clips)
    running: list[ClipCut] = []
    frames = iter_frames(source.path, name=source.name)
    sound = _sound(source, scan, folder / "sound", note)
    for frame in resample_frames(frames, source_fps=scan.info.fps, fps=scan.fps):
        while waiting and waiting[0].start == frame.index:
            clip = waiting.popleft()
            track = clip.trail.track(scan.faces)
            running.append(ClipCut(clip, track, folder, fps=scan.fps, crf=settings.crf))
        for cut in running:
            cut.add(frame)
        progress(1 - _LOOKING)
        for cut in [cut for cut in running if cut.clip.stop == frame.index + 1]:
            running.remove(cut)
            yield cut.sample(source.key, origin=origin, sound=sound, landmark_scheme=landmark_scheme)
        if not waiting and not running:
            return


def _sound(source: Source, scan: Scan, path: Path, note: Callable[[str, str], None]) -> StoredSound | None:
    """The sound from the first frame on, kept in `path`; None where there is none that can be used."""
    if not scan.info.has_audio:
        return None
    try:
        sound = StoredSound.extract(source.path, path, start_s=scan.start_s, name=source.name)
    except VideoError as error:
        note("audio", f"{error}; its clips are silent")
        return None
    if sound is not None and sound.mends:
        note("audio", f"{source.name}: {sound.mends}")
    return sound
