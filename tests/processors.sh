#!/usr/bin/env bash
# The tests as other machines would run them: other numbers of threads, and kernels for processors with fewer instructions, which add
# up in another order. One line per setting; what failed stands in processors/SETTING.txt. Arguments go on to pytest:
# tests/processors.sh tests/maths -k name.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
out=${PROCESSORS:-processors}
mkdir -p "$out"
worst=0
for setting in \
    OMP_NUM_THREADS=1 \
    "OMP_NUM_THREADS=2 ASSAY_TEST_THREADS=2" \
    ATEN_CPU_CAPABILITY=default \
    ATEN_CPU_CAPABILITY=avx2 \
    MKL_ENABLE_INSTRUCTIONS=AVX2 \
    MKL_ENABLE_INSTRUCTIONS=SSE4_2 \
    ONEDNN_MAX_CPU_ISA=AVX2 \
    ONEDNN_MAX_CPU_ISA=SSE41; do
    file=$out/${setting// /,}.txt
    # shellcheck disable=SC2086
    env $setting "$python" -m pytest -q "$@" >"$file" 2>&1
    code=$?
    [ $code = 0 ] || worst=1
    printf '%-42s %s\n' "$setting" "$(tail -n 1 "$file")"
done
exit $worst
