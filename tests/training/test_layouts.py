"""Layouts follow from platform, devices and shapes alone, and whole batches come out of their pieces."""

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caml.models.sizes import Model
from caml.training.execution import Execution
from caml.training.layouts import Unfit, layout_of
from caml.training.loop import laid_out
from caml.training.pacing import Pace


@given(
    devices=st.integers(1, 16),
    places=st.integers(1, 40),
    batch=st.integers(1, 64),
    length=st.integers(1, 2048),
    width=st.integers(1, 512),
)
def test_pieces_and_devices_divide_a_batch(devices: int, places: int, batch: int, length: int, width: int):
    layout = layout_of("cpu", devices, places, batch, length, width)
    tokens = 64 if width <= 48 else 256 if width <= 64 else 128 if width <= 128 else 512
    assert batch % layout.data == 0 and layout.groups * layout.data <= devices
    own = batch // layout.data
    assert layout.rows < own and (not layout.rows or own % layout.rows == 0)
    assert layout.rows <= 1 or layout.rows * length <= tokens
    # What fits into the cache at once is not cut.
    assert bool(layout.rows) == (own > 1 and own * length > tokens)
    # Each member has a group, or each device, and no larger groups would divide the batch.
    assert layout.groups == min(places, devices // layout.data)
    assert layout.data == 1 or places * layout.data <= devices
    assert not any(batch % n == 0 for n in range(layout.data + 1, devices // places + 1))


def test_few_members_leave_few_devices_free():
    def found(devices: int, places: int, batch: int = 32) -> tuple[int, int]:
        layout = layout_of("cpu", devices, places, batch, 128, 64)
        return layout.groups, layout.data

    alone = {devices: found(devices, 1) for devices in (1, 2, 6, 8, 12)}
    assert alone == {1: (1, 1), 2: (1, 2), 6: (1, 4), 8: (1, 8), 12: (1, 8)}
    assert [found(12, 5), found(8, 3), found(12, 12), found(12, 40)] == [(5, 2), (3, 2), (12, 1), (12, 1)]
    assert found(12, 1, batch=24) == (1, 12) and found(2, 1, batch=7) == (1, 1)


def test_what_is_measured_for_a_cpu_is_not_for_an_accelerator():
    assert str(layout_of("cpu", 2, 12, 4, 64, 64)) == "members in turn, whole batches"
    assert str(layout_of("cpu", 2, 12, 16, 64, 64)) == "members in turn, 4 rows at a time"
    assert str(layout_of("cpu", 2, 12, 16, 64, 32)) == "members in turn, 1 row at a time"
    rows = {width: layout_of("cpu", 2, 12, 32, 64, width).rows for width in (49, 64, 65, 128, 129)}
    assert rows == {49: 4, 64: 4, 65: 2, 128: 2, 129: 8}
    assert (
        str(layout_of("cpu", 2, 1, 32, 128, 64))
        == "members in turn, 2 rows at a time, a batch over 2 devices"
    )
    assert (
        str(layout_of("gpu", 1, 12, 32, 128, 32))
        == "members side by side, 12 at once, whole batches, queries and keys normalised apart, attention by triton"
    )
    fused = layout_of("gpu", 1, 12, 32, 128, 32, Execution(fused=True))
    assert str(fused).endswith(
        "attention by triton, fused between products, logits of next tokens in float32"
    )
    fused = layout_of("gpu", 1, 12, 32, 128, 32, Execution(fused=True), "bfloat16")
    assert str(fused).endswith("fused between products, logits of next tokens in bfloat16")


def test_what_is_asked_is_done_or_refused_by_name():
    asked = Execution(fsdp=2, tensor=2, rows=1, remat="layers")
    layout = layout_of("cpu", 8, 1, 16, 64, 64, asked, "bfloat16", kv_heads=4)
    assert str(layout) == (
        "members in turn, 1 row at a time, a batch over 2 devices, a model in parts on 2 x 2 devices "
        "(fsdp x tensor), in bfloat16, layers computed again"
    )
    assert layout_of("gpu", 4, 1, 16, 64, 64, Execution(data=1)).data == 1
    for field, devices, batch, execution in (
        ("fsdp", 6, 16, Execution(fsdp=4)),
        ("fsdp", 4, 6, Execution(fsdp=4)),
        ("data", 4, 16, Execution(data=3)),
        ("data", 4, 6, Execution(data=4)),
        ("data", 8, 16, Execution(data=2, fsdp=2)),
        ("tensor", 8, 16, Execution(tensor=8)),
        ("tensor", 4, 1, Execution(tensor=4)),
        ("tensor", 2, 1, Execution(tensor=2)),
        ("rows", 2, 2, Execution(tensor=2, rows=1)),
        ("fsdp", 6, 6, Execution(fsdp=6)),
        ("rows", 2, 16, Execution(rows=3)),
        ("fused", 1, 16, Execution(fused=True)),
    ):
        with pytest.raises(Unfit) as found:
            layout_of("cpu", devices, 1, batch, 63, 64, execution, kv_heads=4)
        assert found.value.field == field
    with pytest.raises(Unfit, match="4 devices do not divide the model's 42 neurons"):
        layout_of("cpu", 4, 1, 16, 64, 64, Execution(tensor=4), kv_heads=4, neurons=42)
    with pytest.raises(Unfit, match="6 devices do not divide the model's width of 64"):
        layout_of("cpu", 6, 1, 16, 63, 64, Execution(fsdp=3, tensor=2), kv_heads=4)
    # As many rows as suit the platform, of those of which there are equal shares of tokens.
    assert layout_of("cpu", 2, 1, 6, 63, 64, Execution(tensor=2), kv_heads=4).rows == 2


def test_fused_kernels_are_refused_where_a_model_or_its_batches_do_not_fit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [None])

    def laid(head_dim: int = 16, mlp_width: int = 48, batch: int = 4, rows: int = 0) -> str:
        model = Model("toy", 32, 1, 2, 2, head_dim, mlp_width)
        pace = Pace(steps=1, places=1, asked=Execution(fused=True, rows=rows))
        return str(laid_out(pace, 1, model, batch, 64))

    assert "fused between products" in laid() and "fused between products" in laid(rows=2)
    for unfit in ({"head_dim": 24}, {"mlp_width": 50}, {"batch": 3}, {"rows": 1}):
        with pytest.raises(Unfit, match="neurons by 16 and positions by 128") as found:
            laid(**unfit)
        assert found.value.field == "fused"
