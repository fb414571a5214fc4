#!/usr/bin/env bash
# The whole acceptance on a machine with a GPU, in at most six minutes: what is there, the selftest of every golden
# case and of every argument of the operations that the kernels make, the tests that need a device,
# compute-sanitizer if it is installed, the distributions of 15e9 draws, the kernels next to their targets, the
# benchmark, many tensors at once, and fanfill.jax if JAX has its plugin for CUDA.
# Leaves gpu.json and gpu.md in OUT (default: gpu-results/), and ends with 1 if anything failed. PYTHON names an
# interpreter whose environment has the extras cuda12 or cuda13, cli and test, and torch.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
out=${OUT:-gpu-results}
mkdir -p "$out"
export PYTHONPATH="src:kernels${PYTHONPATH:+:$PYTHONPATH}"

"$python" - <<'END' || exit 1
import sys
from fanfill.backends import get
reason = get("cuda").unusable()
if reason is not None:
    sys.exit(f"ci/gpu.sh needs a machine with a usable GPU; here: {reason}")
END

steps=()
failed=()
step() { # its name, the most seconds it may take, then a command, whose output is kept in OUT
    local name=$1 most=$2 code=0 began=$SECONDS
    shift 2
    echo "== $name"
    timeout "$most" "$@" >"$out/$name.txt" 2>&1 || code=$?
    steps+=("$name:$code:$((SECONDS - began))")
    if [ "$code" -ne 0 ]; then
        failed+=("$name")
        tail -n 20 "$out/$name.txt"
    fi
}

step info 15 "$python" -m fanfill info
step selftest 60 "$python" -m fanfill selftest --device cuda --exhaustive
step tests 75 "$python" -m pytest -q -n0 -m cuda tests/cuda/test_cuda_device.py \
    tests/torch/test_torch_cuda.py tests/keras/test_keras_cuda.py
if command -v compute-sanitizer >/dev/null; then
    step sanitizer 40 compute-sanitizer --tool memcheck --error-exitcode 9 "$python" benchmarks/cuda_many.py --small
fi
# These draws are those of the CPU's table in docs/quality.md: where counts are equal, no law departs.
step quality 30 "$python" benchmarks/quality.py --device cuda --draws 1e9 --controls
step kernels 30 "$python" benchmarks/cuda_kernels.py --json "$out/kernels.json"
step bench 40 "$python" -m fanfill bench --quick --device cuda --peers torch --out "$out/bench"
step many 40 "$python" benchmarks/cuda_many.py --json "$out/many.json"
if "$python" -c 'import sys; from fanfill.jax.on_cuda import has_plugin; sys.exit(not has_plugin())' 2>/dev/null; then
    step jax 30 "$python" benchmarks/jax_cuda.py
fi

"$python" benchmarks/cuda_many.py --report "$out" "${steps[@]}"
echo "== $out/gpu.json, $out/gpu.md"
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
