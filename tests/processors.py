"""The tests as other machines would run them: other numbers of threads, and kernels for processors with fewer instructions.

Kernels differ in the order in which they add up. One line per setting: whether its kernels give other bits than this machine's own (on
some machines a setting changes nothing), and how the tests went; all that pytest said is in processors/SETTING.txt. Arguments go on to
pytest: `python tests/processors.py tests/maths -k name`.
"""

import hashlib
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__)
ROOT = HERE.parent.parent
SETTINGS = [
    {"OMP_NUM_THREADS": "1"},
    {"OMP_NUM_THREADS": "2", "ASSAY_TEST_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
    {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    # MKL takes no notice of the two above on other processors than Intel's.
    {"MKL_CBWR": "COMPATIBLE"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    {"ONEDNN_MAX_CPU_ISA": "SSE41"},
]


def digest() -> str:
    """Hash over sums, products, convolutions and solutions as they come out in this process."""
    import torch

    torch.set_num_threads(int(os.environ.get("ASSAY_TEST_THREADS", "1")))
    draw = torch.Generator().manual_seed(0)
    a, b, images, kernels, many = (
        torch.randn(shape, generator=draw) for shape in ((97, 301), (301, 53), (8, 3, 33, 33), (16, 3, 3, 3), (100_003,))
    )
    found = [many.sum(), a.exp(), a.softmax(1), a @ b, torch.conv2d(images, kernels), torch.linalg.solve(a[:, :97], b[:97])]
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in found)).hexdigest()


def main() -> int:
    """Run the tests under every setting; 0 if all went well."""
    folder = pathlib.Path(os.environ.get("PROCESSORS", ROOT / "processors"))
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: value for name, value in os.environ.items() if not any(name in setting for setting in SETTINGS)}
    own, worst = None, 0
    for setting in SETTINGS:
        title = " ".join(f"{name}={value}" for name, value in setting.items())
        given = {"cwd": ROOT, "env": {**plain, **setting}, "text": True}
        bits = subprocess.run([sys.executable, HERE, "--digest"], check=True, capture_output=True, **given).stdout
        own = own or bits
        with open(folder / f"{title.replace(' ', ',')}.txt", "w") as said:
            code = subprocess.run(
                [sys.executable, "-m", "pytest", "-q", *sys.argv[1:]], stdout=said, stderr=said, **given
            ).returncode
        last = pathlib.Path(said.name).read_text().splitlines()[-1]
        print(f"{title:<64} {'same bits' if bits == own else 'other bits':<11} {last}", flush=True)
        worst = worst or code
    return worst


if __name__ == "__main__":
    if sys.argv[1:] == ["--digest"]:
        print(digest())
    else:
        sys.exit(main())
