"""The self-test says what passed, what failed and why, and what was skipped."""

import subprocess
import sys

SCRIPT = """
import sys
from pathlib import Path
from portraitgen.runs.evaluate import selftest
selftest.CONF = Path(sys.argv[1]) / "conf"
selftest.selftest(None)
"""
CASES = """
import pytest

@pytest.mark.golden
def test_sums_are_the_reference():
    assert 1 + 1 == 2

@pytest.mark.golden
def test_reference_data():
    pytest.skip("no reference data")

def test_other():
    assert False
"""
BROKEN = """
import pytest

@pytest.mark.golden
@pytest.mark.parametrize("case", ["a_b"])
def test_products_are_the_reference(case):
    assert 2 * 2 == 5
"""
INI = "[pytest]\nmarkers =\n  golden: compares\n  slow: long\n"


def run(folder):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True)
    return done.returncode, [line for line in done.stdout.splitlines() if line], done.stderr


def test_one_line_for_each_comparison_and_exit_1_when_one_fails(tmp_path):
    for place in ("metrics", "faces/recognition"):
        (tmp_path / "tests" / place).mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "tests/metrics/test_sum.py").write_text(CASES)
    code, lines, _ = run(tmp_path)
    assert lines[:2] == [
        " passed  sum: sums are the reference",
        "skipped  sum: reference data  (no reference data)",
    ]
    assert lines[2].startswith("1 passed, 0 failed, 1 skipped in ")
    assert (code, len(lines)) == (0, 3)
    (tmp_path / "tests/faces/recognition/test_product.py").write_text(BROKEN)
    code, lines, _ = run(tmp_path)
    assert code == 1
    assert " failed  product: products are the reference[a b]" in lines
    assert "E       assert (2 * 2) == 5" in lines
    assert lines[-1].startswith("1 passed, 1 failed, 1 skipped in ")
    (tmp_path / "tests/metrics/test_sum.py").write_text("import nothing_like_this")
    code, lines, _ = run(tmp_path)
    assert code == 1
    assert any("nothing_like_this" in line for line in lines)


def test_without_the_checkout_there_is_nothing_to_run(tmp_path):
    code, _, error = run(tmp_path)
    assert code == 1
    assert "the goldens are part of the checkout" in error
