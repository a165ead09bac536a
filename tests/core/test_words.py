from assay.core.words import worded


def test_numbers_have_four_digits_and_long_lists_their_ends():
    assert worded(0.123456) == "0.1235" and worded(31.25) == "31.25" and worded(3) == "3" and worded("one by one") == "one by one"
    assert worded([0.5, 1.0, 2]) == "0.5, 1, 2"
    assert worded([float(n) for n in range(8)]) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert worded(tuple(range(9))) == "0, 1, 2, 3, ..., 6, 7, 8 (9 numbers)"


def test_whoever_shows_them_writes_the_numbers():
    assert worded([-0.5, "x", -2.0], lambda value: f"<{value:g}>") == "<-0.5>, x, <-2>"
