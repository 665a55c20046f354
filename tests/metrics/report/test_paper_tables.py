"""Tables of papers: every number has its mark and its place, and a report says that they do not compare."""

import re

import pytest

from portraitgen.metrics.report.paper_tables import (
    RECALLED,
    WARNING,
    load_table,
    papers_markdown,
    table_names,
)


def test_the_five_papers_are_there():
    papers = {name.split("/")[0] for name in table_names()}
    assert papers == {"aniportrait", "consisid", "flux_identity", "loopy", "uniportrait"}


@pytest.mark.parametrize("name", table_names())
def test_every_number_stands_in_a_column_and_has_a_source(name):
    table = load_table(name)
    assert table.source
    assert re.search(r"arXiv \d{4}\.\d{5}", table.paper)
    assert table.rows
    for numbers in table.rows.values():
        assert numbers.keys() <= table.columns.keys()
        assert all(re.fullmatch(r"[\d.]+( to [\d.]+)?", number) for number, _ in numbers.values())


def test_what_is_recalled_is_marked():
    rows = load_table("loopy/celebv_hq").rows
    assert rows["Loopy"]["fid"] == ("33.204", True)
    assert rows["Loopy"]["sync_d"] == ("8.196", False)
    markdown = papers_markdown([load_table("loopy/celebv_hq")])
    assert f"| 8.196{RECALLED} |" in markdown
    assert WARNING in markdown
    assert papers_markdown([]) == ""


def test_an_unknown_table_is_an_error():
    with pytest.raises(ValueError, match=r"no table 'loopy/hdft'; did you mean 'loopy/hdtf'\?; known are"):
        load_table("loopy/hdft")
