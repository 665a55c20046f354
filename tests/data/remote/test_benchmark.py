"""What `python -m benchmarks.remote` says of its passes."""

import pytest

from benchmarks.remote import READERS, Pass, report


@pytest.mark.parametrize("judged", [True, False])
def test_a_bandwidth_without_targets_has_no_verdict(judged: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its ratios were called MISSED, though the targets are for the limited one."""
    rounds = [dict.fromkeys(READERS, Pass(rate=70.0, sent=100, busy=0.02))] * 3
    assert report(rounds, stored=1000, judged=judged) is not judged
    said = capsys.readouterr().out
    assert ("MISSED" in said) is ("met" in said) is judged
    assert "s3 ranges / webdataset, samples a second" in said
