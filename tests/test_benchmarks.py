"""The table of what benchmarks printed; the benchmarks themselves are run by hand."""

import json

import pytest

from benchmarks import table
from benchmarks.lines import line


def test_a_kept_line_becomes_a_row_and_a_later_run_replaces_an_earlier(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KEEP", str(tmp_path / "here.jsonl"))
    line("training", "0.2M", 1.0, 2.0, "tokens/s", 0.5, 1.0)
    line("startup", "cold", 15.7, 10.0, "s", 0.637, 1.0)
    line("training", "0.2M", 23_571.2, 16_580.1, "tokens/s", 1.421, 1.0, {"ours": [23_000.0, 24_000.0]})
    assert len(capsys.readouterr().out.splitlines()) == 3
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["table"])
    table.main()
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("| ")][1:]
    assert (tmp_path / "TABLE.md").read_text().count("\n| ") == 3
    assert rows[0].startswith(
        "| training | 0.2M | 23,570 [23,000, 24,000] | 16,580 | tokens/s | 1.421 | 1 | met | "
    )
    assert "| 0.637 | 1 | missed by 36% | " in rows[1]
    assert len(rows) == 2


def test_a_line_that_no_benchmark_printed_is_named(tmp_path):
    path = tmp_path / "here.jsonl"
    path.write_text(json.dumps({"benchmark": "a", "case": "b"}) + "\nmake: nothing to be done\n")
    with pytest.raises(SystemExit, match=r"here\.jsonl:2 is not a line"):
        table.read(path)
