"""IPVG's protocol: people times prompts as a requests file, which generate.py takes and evaluate.py
grades.
"""

import json
import shutil

import cv2
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from portraitgen.media.encode import write_video
from portraitgen.runs.config.schema import register_configs
from portraitgen.runs.evaluate.evaluate import evaluate
from portraitgen.runs.generate.ipvg import write_ipvg
from portraitgen.runs.generate.requests_file import read_requests
from portraitgen.training.inputs import Input

WHAT = {
    each.name: each for each in (Input("reference", "photos", "a face"), Input("prompt", "text", "words"))
}


@pytest.fixture
def run(repository):
    def with_settings(name, **settings):
        register_configs()
        with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
            words = [f"{key}={value}" for key, value in settings.items()]
            return compose(name, words)

    return with_settings


def people_in(folder, count):
    """As ConsisID's eval/face_images: N_….png, several of a person."""
    folder.mkdir()
    for number in range(count):
        for photo in range(2):
            cv2.imwrite(str(folder / f"{number:03d}_{photo}.png"), np.full((8, 8, 3), number, np.uint8))
    return folder


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_200_people_with_5_prompts_each(run, tmp_path):
    people = people_in(tmp_path / "faces", 203)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{{class_token}} does {number}\n\n" for number in range(20)))
    out = tmp_path / "deep" / "ipvg.jsonl"
    write_ipvg(run("generate_ipvg", people=people, prompts=prompts, out=out))
    rows = rows_of(out)
    assert len(rows) == 1000
    assert len({row["key"] for row in rows}) == 1000
    assert len({row["reference"] for row in rows}) == 200
    assert all(row["prompt"].startswith("person does ") for row in rows)
    by_person = {}
    for row in rows:
        by_person.setdefault(row["reference"], set()).add(row["prompt"])
    assert {len(texts) for texts in by_person.values()} == {5}
    assert len({frozenset(texts) for texts in by_person.values()}) > 100, "each has prompts of their own"
    # What generate.py makes of the rows: paths lie beside the file.
    read = [row for _, row in read_requests(str(out), WHAT, ("key", "seed"))]
    assert (tmp_path / "deep" / read[7]["reference"]).resolve().is_file()
    assert (tmp_path / "faces" / "001_0.png").samefile(read[7]["reference"])

    first = out.read_bytes()
    write_ipvg(run("generate_ipvg", people=people, prompts=prompts, out=out))
    assert out.read_bytes() == first
    write_ipvg(run("generate_ipvg", people=people, prompts=prompts, out=out, identities=7, photos_each=2))
    few = rows_of(out)
    assert [row["prompt"] for row in few] == [row["prompt"] for row in rows[:35]]
    assert few[0]["reference"] == [["../faces/000_0.png", "../faces/000_1.png"]]


def test_consisids_prompts_by_class(run, tmp_path):
    people = tmp_path / "faces"
    for name in ("ann", "bob", "kim"):
        (people / name).mkdir(parents=True)
        (people / name / "1.jpg").write_bytes(b"")
    prompts, classes = tmp_path / "p.csv", tmp_path / "c.csv"
    prompts.write_text(
        "index,Class,Original_Prompt,Refined_man,Refined_woman\n"
        '1,style,"{class_token}, smiling","A {class_token}, he waves","A {class_token}, she waves"\n'
    )
    classes.write_text("person,class\nann,woman\nbob,man\n")
    out = tmp_path / "r.jsonl"
    settings = {"people": people, "prompts": prompts, "out": out, "identities": "null", "prompts_each": 1}
    write_ipvg(run("generate_ipvg", **settings, classes=classes))
    assert [row["prompt"] for row in rows_of(out)] == [
        "A woman, she waves",
        "A man, he waves",
        "person, smiling",
    ]
    for wrong, message in (
        ({"identities": 4}, "identities=4: people=.* holds 3"),
        ({"prompts_each": 2}, "prompts_each=2: prompts=.* has 1"),
        ({"photos_each": 2}, "photos_each=2: there are 1 of ann"),
        ({"people": tmp_path / "none"}, "people=.*: no such folder"),
        ({"prompts": classes}, "no column Original_Prompt"),
        ({"classes": prompts}, "must be a CSV with the columns person and class"),
        ({"out": tmp_path / "r.csv"}, "give a .jsonl file"),
    ):
        with pytest.raises(ValueError, match=message):
            write_ipvg(run("generate_ipvg", **{**settings, **wrong}))


def test_what_was_generated_for_it_is_graded_both_ways(run, repository, shared, tmp_path):
    """Two people, one shown as asked and one as the other."""
    people = tmp_path / "faces"
    for name in ("obama", "kit"):
        shutil.copytree(shared / "testdata" / "photos" / "ids" / name, people / name)
    prompts = tmp_path / "p.txt"
    prompts.write_text("{class_token} talks\n")
    file, out = tmp_path / "ipvg.jsonl", tmp_path / "out"
    write_ipvg(run("generate_ipvg", people=people, prompts=prompts, out=file, identities=2, prompts_each=1))
    out.mkdir()
    rows = []
    for row in rows_of(file):
        photo = (tmp_path / row["reference"]).resolve()
        frame = cv2.resize(cv2.imread(str(sorted((people / "obama").iterdir())[1]))[:, :, ::-1], (400, 480))
        frames = [np.ascontiguousarray(frame)] * 3 + [np.zeros_like(frame)]
        write_video(out / f"{row['key']}.mp4", frames, fps=8)
        rows.append(
            {
                "key": row["key"],
                "video": f"{row['key']}.mp4",
                "fps": "8",
                "frames": [0, 1, 2, 3],
                "references": [[str(photo)]],
                "prompt": row["prompt"],
                "seed": row["seed"],
                "system": "consisid",
                "weights": "w",
                "step": 0,
                "train_span": [0, 0],
                "sampling": {},
                "frames_trained_on": 0,
                "inputs": {},
                "interpolation": {},
                "precision": "float32",
            }
        )
    (out / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dlib = "metrics.graders.{}.recognizer=dlib"
    register_configs()
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        from portraitgen.faces.dlib_files import EMBEDDING_FILE, model_file

        weights = model_file(EMBEDDING_FILE, None)
        config = compose(
            "evaluate",
            [
                f"generated={out}",
                "metrics=consisid",
                "show_videos=0",
                *(dlib.format(name) for name in ("facesim_arc", "face_arc")),
                *(f"metrics.graders.{name}.weights={weights}" for name in ("facesim_arc", "face_arc")),
            ],
        )
    evaluate(config)
    results = json.loads((out / "report" / "results.json").read_text())
    rows = {row["video"].partition("-")[0]: row for row in results["rows"] if row["method"] == "generated"}
    for figure in ("identity_dlib", "consisid_compat_facesim_dlib"):
        assert rows["obama"][figure] > 0.914 > rows["kit"][figure]
    assert rows["obama"]["identity_dlib_faces"] == pytest.approx(15 / 16), "the black frame is counted"
    skipped = results["skipped"]
    assert {"facesim_cur", "face_cur", "face_distance", "clip_compat", "clip", "fid"} == skipped.keys()
