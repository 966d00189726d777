"""How a population is laid out on a platform: by measurements that stand here, never tuned while something runs.

Whatever is laid out otherwise has other bits, so a layout is recorded with what was trained.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Members `turn` by turn on each device, so that the bits of one do not depend on its company, or `stacked`.

    A batch is spread over `data` devices, and each takes `rows` sequences of it at a time (0: all of its own).
    """

    members: str = "turn"
    rows: int = 0
    data: int = 1

    def __str__(self) -> str:
        rows = f"{self.rows} rows at a time" if self.rows else "whole batches"
        members = "members in turn" if self.members == "turn" else "members side by side"
        return f"{members}, {rows}" + (f", a batch over {self.data} devices" if self.data > 1 else "")


PLAIN = Layout()

# By platform, batches of how many tokens are taken whole, and of larger ones how many tokens at a time: on a CPU what a
# piece needs is to stay in the cache of its core (measured: experiments/LOG.md). An accelerator takes all at once.
WHOLE, AT_A_TIME = {"cpu": 1024}, {"cpu": 256}
MEMBERS = {"cpu": "turn"}


def layout_of(platform: str, devices: int, places: int, batch: int, length: int) -> Layout:
    """The layout of a population of `places` members whose batches are of `batch` sequences of `length` tokens.

    Members are spread over the devices. Where there are fewer of them than devices, so is the batch of each.
    """
    data = devices // places if places < devices and devices % places == 0 else 1
    data = data if batch % data == 0 else 1
    own, rows = batch // data, 0
    if platform in AT_A_TIME and own * length > WHOLE[platform]:
        most = max(1, AT_A_TIME[platform] // length)
        rows = max(rows for rows in range(1, most + 1) if own % rows == 0)
    return Layout(MEMBERS.get(platform, "stacked"), rows if rows < own else 0, data)
