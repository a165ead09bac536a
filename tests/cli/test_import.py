import subprocess
import sys

import pytest

import assay


@pytest.mark.parametrize("name", assay.__all__)
def test_every_public_name_is_there(name):
    assert getattr(assay, name) is not None and name in dir(assay)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'recrod'"):
        assay.recrod  # noqa: B018


def test_importing_assay_is_cheap():
    script = "import sys, assay; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
