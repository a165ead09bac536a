import hypothesis
import torch
from hypothesis import strategies as st

from assay.maths.windows import push, ring_moments, start_ring, window_moments


def test_by_hand():
    mean, std = window_moments(torch.tensor([[0.0], [2.0], [2.0], [5.0]], dtype=torch.float64), 2)
    assert mean.tolist() == [[1.0], [2.0], [3.5]]
    torch.testing.assert_close(std.square(), torch.tensor([[2.0], [0.0], [4.5]], dtype=torch.float64))


@hypothesis.given(st.integers(2, 6), st.integers(0, 9), st.integers(1, 4), st.integers(0, 2**32))
@hypothesis.settings(deadline=None)
def test_the_ring_gives_every_window_in_turn(window, more, examples, seed):
    values = torch.rand(window + more, examples, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean, std = window_moments(values, window)
    ring, full = start_ring(window, examples), []
    for epoch, row in enumerate(values):
        assert push(ring, row) == (epoch >= window - 1)
        if epoch >= window - 1:
            full.append(ring_moments(ring))
    assert len(full) == len(mean) == more + 1
    torch.testing.assert_close(torch.stack([one for one, _ in full]), mean, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(torch.stack([two for _, two in full]), std, rtol=1e-12, atol=1e-15)


def test_the_ring_keeps_its_own_copy():
    ring, values = start_ring(2, 3), torch.ones(3)
    push(ring, values)
    values.zero_()
    assert ring["ring"][0].tolist() == [1.0, 1.0, 1.0] and ring["ring"].dtype == torch.float64
