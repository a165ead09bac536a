"""Options that property tests draw for accumulators, of recordings of so many epochs."""

from hypothesis import strategies as st


def spans(epochs, least):
    return st.none() | st.integers(least, epochs)


@st.composite
def windowed(draw, epochs, smallest=2, more=0):
    window = draw(st.integers(smallest, epochs - more))
    return {"window": window, "epochs": draw(spans(epochs, window + more))}
