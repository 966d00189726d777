"""The table of what benchmarks printed; the benchmarks themselves are run by hand."""

import json

import pytest

from benchmarks import passes, table
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


PROGRAM = """HloModule step, is_scheduled=true

%heads (param_0: bf16[96,64], param_1: f32[64]) -> (f32[64], bf16[32,64]) {
  %param_0 = bf16[96,64]{1,0} parameter(0)
  %bitcast.1 = bf16[1,96,64]{2,1,0} bitcast(%param_0)
  %slice.1 = bf16[1,32,64]{2,1,0} slice(%bitcast.1), slice={[0:1], [32:64], [0:64]}
  %param_1 = f32[64]{0} parameter(1)
  %bitcast.2 = bf16[32,64]{1,0} bitcast(%slice.1)
  ROOT %tuple.1 = (f32[64]{0}, bf16[32,64]{1,0}) tuple(%param_1, %bitcast.2)
}

%update (param_0: f32[4,64], param_1: f32[1,64], param_2: s32[]) -> f32[4,64] {
  %param_0 = f32[4,64]{1,0} parameter(0)
  %param_1 = f32[1,64]{1,0} parameter(1)
  %param_2 = s32[] parameter(2)
  ROOT %dynamic-update-slice.1 = f32[4,64]{1,0} dynamic-update-slice(%param_0, %param_1, %param_2, %param_2)
}

%look_up (param_0: f32[50,8], param_1: s32[3]) -> f32[3,8] {
  %param_0 = f32[50,8]{1,0} parameter(0)
  %param_1 = s32[3]{0} parameter(1)
  ROOT %gather.1 = f32[3,8]{1,0} gather(%param_0, %param_1), slice_sizes={1,8}
}

%body (arg: (s32[], f32[4,64])) -> (s32[], f32[4,64]) {
  %arg = (s32[], f32[4,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %rows = f32[4,64]{1,0} get-tuple-element(%arg), index=1
  %new = f32[1,64]{1,0} custom-call(%i), custom_call_target="of"
  %updated = f32[4,64]{1,0} fusion(%rows, %new, %i), kind=kLoop, calls=%update
  ROOT %out = (s32[], f32[4,64]{1,0}) tuple(%i, %updated)
}

ENTRY %main (a: bf16[96,64], b: f32[64], c: (s32[], f32[4,64])) -> f32[4,64] {
  %a = bf16[96,64]{1,0} parameter(0)
  %b = f32[64]{0} parameter(1)
  %c = (s32[], f32[4,64]{1,0}) parameter(2)
  %prepared = (f32[64]{0}, bf16[32,64]{1,0}) fusion(%a, %b), kind=kInput, calls=%heads
  %product = (f32[64]{0}, s8[33554432]{0}) custom-call(%b, %b), custom_call_target="__cublas$gemm"
  %loop = (s32[], f32[4,64]{1,0}) while(%c), condition=%end, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %rows.1 = f32[4,64]{1,0} get-tuple-element(%loop), index=1
  %table = f32[50,8]{1,0} parameter(3)
  %tokens = s32[3]{0} parameter(4)
  %row = f32[1,64]{1,0} parameter(5)
  %at = s32[] parameter(6)
  %looked_up = f32[3,8]{1,0} fusion(%table, %tokens), kind=kLoop, calls=%look_up
  %begun = ((f32[64]{0}), f32[64]{0}, u32[]) copy-start(%b)
  %ended = f32[64]{0} copy-done(%begun)
  ROOT %put = f32[4,64]{1,0} dynamic-update-slice(%rows.1, %row, %at, %at)
}
"""


PASSED = """
%body (arg: (s32[], bf16[12,64])) -> (s32[], bf16[12,64]) {
  %arg = (s32[], bf16[12,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %part = bf16[12,64]{1,0} get-tuple-element(%arg), index=1
  %whole = bf16[96,64]{1,0} all-gather(%part), replica_groups=mesh['data'=1,'fsdp'=8] {'fsdp'}, dimensions={0}
  ROOT %out = (s32[], bf16[12,64]{1,0}) tuple(%i, %part)
}

ENTRY %main (a: (s32[], bf16[12,64]), b: f32[80]) -> f32[80] {
  %a = (s32[], bf16[12,64]{1,0}) parameter(0)
  %b = f32[80]{0} parameter(1)
  %loop = (s32[], bf16[12,64]{1,0}) while(%a), condition=%end, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %begun = ((f32[80]{0}), f32[10]{0}) reduce-scatter-start(%b), replica_groups=[1,8]<=[8], dimensions={0}
  %ended = f32[10]{0} reduce-scatter-done(%begun)
  %product = f32[80]{0} fusion(%b), kind=kLoop, calls=%of
  ROOT %sum = f32[80]{0} all-reduce(%b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
}
"""


def test_what_devices_pass_to_each_other_is_counted_by_who_takes_part():
    found = passes.moved(*passes.computations(PASSED), bytes_of=passes.receives)
    assert {one.name: most for one, most in found if most} == {
        # Three times, from each of seven others.
        "whole": 3 * 7 * 12 * 64 * 2,
        # An eighth of the sums, of seven others' shares; and a ring of four, round twice.
        "begun": 7 * 10 * 4,
        "sum": 2 * 3 * 80,
    }
    # Of matrices, over eight: what one does not have, twice in bfloat16, and the gradient in float32.
    case = passes.CASES["30M"]
    layers, words = 9 * (4 * 512 * 512 + 3 * 512 * 1408), 16_384 * 512
    assert passes.least(case, (1, 8, 1)) == pytest.approx((layers * 8 + words * 6) * 7 / 8)
    assert passes.least(case, (8, 1, 1)) == pytest.approx((layers + words) * 2 * 7 / 8 * 4)
    # Twice a layer forward and backward what is added to the stream, in bfloat16, round a ring of two.
    tokens = 16 * 512 * 512
    assert passes.least(case, (1, 1, 2)) == pytest.approx(words * 6 / 2 + 9 * 4 * tokens * 2)
    assert passes.parted("8x1") == (1, 8, 1) and passes.parted("2x2x4") == (2, 2, 4)
    with pytest.raises(ValueError):
        passes.parted("8")
    with pytest.raises(ValueError, match="which devices take part in sum"):
        passes.together(passes.Kernel("sum", "f32[8]", "all-reduce", ["b"], "%b), replica_groups={}", True))


def test_what_a_program_moves_is_counted_by_the_parts_that_it_takes():
    found = {one.name: most for one, most in passes.moved(*passes.computations(PROGRAM))}
    a_third, row = 32 * 64 * 2, 64 * 4
    assert found == {
        # Of its first argument a third, however it is shaped on the way.
        "prepared": a_third + row + (row + a_third),
        # An argument that is given twice is read once, and a workspace is no result.
        "product": row + row,
        # Four times: the new row and where it goes are read, and it alone is written.
        "new": 4 * (4 + row),
        "updated": 4 * (row + 4 + row),
        # The rows that are looked up, and where; a copy that is begun and ended apart; a row that is put in place.
        "looked_up": 3 * 8 * 4 + 3 * 4 + 3 * 8 * 4,
        "begun": row + row + 4,
        "put": 2 * row,
    }
