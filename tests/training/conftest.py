"""How members of a population lie, for tests of all platforms' layouts on any of them."""

from collections.abc import Iterator

import jax
import pytest

from caml.training import layouts


@pytest.fixture(scope="module", params=["turn", "stacked"])
def lies(request: pytest.FixtureRequest) -> Iterator[str]:
    """Members come in turn, as on a CPU, or lie side by side, as on an accelerator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(layouts.MEMBERS_LIE, jax.default_backend(), request.param)
        yield request.param
