"""One video as several weights made it, side by side."""

from collections.abc import Mapping
from pathlib import Path
from string import ascii_uppercase

from portraitgen.media.encode import write_video
from portraitgen.media.files import replacing
from portraitgen.metrics.frames import Frames, as_frames
from portraitgen.metrics.grading import Material
from portraitgen.metrics.report.media import Media, media_name
from portraitgen.metrics.report.panels import contact_sheet, encode_png, panel_frames


def side_by_side(materials: Mapping[str, Material | None], video: str, folder: Path) -> list[Media]:
    """A video of all clips beside each other, with the truth and the sound, and its sheet.

    The caption explains the letters. Nothing where no clip is there, or where they have different sizes.

    Args:
        materials: label -> what was made of the video; None where that is not there.
        video: its key.
        folder: for the files.
    """
    columns: dict[str, Frames] = {}
    said = []
    fps, truth, frames, audio = 25.0, None, None, None
    for letter, (label, material) in zip(ascii_uppercase, materials.items(), strict=False):
        if material is not None:
            columns[letter] = as_frames(material.generated, name=f"{video} of {label}")
            fps, truth, frames = material.fps, material.truth, material.frame_index
            audio = material.audio if audio is None else audio
            said.append(f"{letter}: {label}")
    if truth is not None:
        columns["truth"] = as_frames(truth, name=f"{video}: truth")
    if len({clip.shape for clip in columns.values()}) != 1:
        return []
    caption = f"{video}. {'; '.join(said)}"
    folder.mkdir(parents=True, exist_ok=True)
    name = media_name(video)
    media = []
    if next(iter(columns.values())).shape[0] > 1:
        write_video(folder / f"{name}.mp4", panel_frames(columns), fps=fps, audio=audio)
        media.append(Media(folder / f"{name}.mp4", caption))
    with replacing(folder / f"{name}.png") as temporary:
        temporary.write_bytes(encode_png(contact_sheet(columns, frame_index=frames)))
    return [*media, Media(folder / f"{name}.png", caption)]
