import json

import numpy as np
import pytest
import torch

from portraitgen.faces.dlib import DlibBackend
from portraitgen.metrics.grader import ClipGrader, GradedClip, MissingWeights
from portraitgen.metrics.graders.image_quality import ImageQualityGrader
from portraitgen.metrics.image_quality import quality_score
from portraitgen.metrics.one_pass import grade_clip
from portraitgen.metrics.pictures import Pictures
from portraitgen.metrics.scores import GENERATED


@pytest.mark.golden
def test_scores_are_the_reference(goldens):
    golden = json.loads((goldens / "metrics_qalign.json").read_text())
    found = quality_score(torch.tensor(golden["logits"], dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), golden["score15"], rtol=1e-9)
    np.testing.assert_allclose((found.numpy() - 1) / 4, golden["score01"], rtol=1e-9)
    each = [float(quality_score(torch.tensor(logits).double())) for logits in golden["logits"]]
    np.testing.assert_allclose(each, found.numpy())
    with pytest.raises(ValueError, match="finite logits"):
        quality_score(torch.zeros(3, 4))


def test_logits_are_read_from_files(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 5), np.float32))
    grader = ImageQualityGrader(str(tmp_path))
    assert isinstance(grader, ClipGrader)

    def grade(video, frames=2):
        pictures = Pictures(torch.zeros(frames, 3, 8, 8, dtype=torch.uint8), DlibBackend(), name=video)
        nothing = dict.fromkeys(("truth", "reference", "driving", "audio", "prompt"))
        clip = GradedClip(video=video, method=GENERATED, pictures=pictures, fps=25.0, **nothing)
        return grade_clip(grader, clip)

    assert grade("a").scores["iqa"].tolist() == pytest.approx([3, 3])
    for other in ("b", "../a"):
        assert np.isnan(grade(other).scores["iqa"]).all()
    with pytest.raises(ValueError, match=r"expected logits \[3, 5\], got \[2, 5\]"):
        grade("a", frames=3)
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ValueError, match=r"text\.npy cannot be read as an array of logits"):
        grade("text")
    with pytest.raises(MissingWeights, match="logits is not set"):
        ImageQualityGrader()
