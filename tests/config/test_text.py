"""Tables for people."""

from caml.config.text import aligned


def test_columns_stand_under_each_other_names_to_the_left_and_numbers_to_the_right():
    rows = [("", "care", "is"), ("tokens", "1,234", "a"), ("of it", "9", "")]
    assert list(aligned(rows, left=(0, 2))) == [
        "           care  is",
        "  tokens  1,234  a",
        "  of it       9",
    ]
