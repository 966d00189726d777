"""What a report says beside its tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caml.ablations.reporting import training_time

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=8)


@given(SPANS)
def test_training_time_counts_each_second_once(spans):
    manifests = [{"started": 1000 * a, "finished": 1000 * (a + length)} for a, length in spans]
    seconds = {second for a, length in spans for second in range(a, a + length)}
    assert training_time(manifests) == pytest.approx(len(seconds))
