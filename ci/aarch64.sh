#!/usr/bin/env bash
# The same bits on AArch64: the golden hashes of every initializer and dtype, by a Debian arm64 Python under qemu.
# Needs Debian's apt and qemu-user (`apt-get install qemu-user`); no root, nothing is installed: packages are
# unpacked into a scratch folder. Emulated: it proves bits, not speed. About 10 minutes, one core.
# Arguments: other tests than tests/api/test_golden.py, and options for pytest. SCRATCH=folder keeps what was unpacked.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
source ci/debian.sh
scratch=${SCRATCH:-$(mktemp -d)}
[ -n "${SCRATCH:-}" ] || trap 'rm -rf "$scratch"' EXIT
command -v qemu-aarch64 >/dev/null || { echo "qemu-aarch64 is missing: apt-get install qemu-user"; exit 1; }

mkdir -p "$scratch/site"
echo "== packages for arm64"
debian_unpack bookworm arm64 "$scratch" libc6 libgcc-s1 libstdc++6 libcrypt1 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 \
    liblzma5 libuuid1 libtinfo6 libncursesw6 libreadline8 libsqlite3-0 libdb5.3 \
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib

echo "== wheels for aarch64"
"${PYTHON:-python3}" -m pip install --quiet --no-warn-script-location --disable-pip-version-check --target "$scratch/site" --only-binary=:all: --python-version 3.11 \
    --implementation cp --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    'numpy>=2.0' 'numba>=0.60' 'ml_dtypes>=0.5' pytest pytest-timeout hypothesis

echo "== tests on $(qemu-aarch64 --version | head -1)"
export PYTHONPATH="$root/src:$root/kernels:$scratch/site" PYTHONDONTWRITEBYTECODE=1 FANFILL_CACHE_DIR="$scratch/kernels"
python=(qemu-aarch64 -L "$scratch/root" "$scratch/root/usr/bin/python3.11")
export PYTHONHOME="$scratch/root/usr"
"${python[@]}" -c 'import platform, numpy, numba; print(platform.machine(), platform.python_version(), numpy.__version__, numba.__version__)'
[ $# -gt 0 ] || set -- tests/api/test_golden.py
# Left out: what starts another Python, which this system would run without the emulator.
"${python[@]}" -m pytest -q -p no:cacheprovider -o addopts= -o timeout=3600 -m 'not slow' \
    --deselect tests/api/test_golden.py::test_the_list_of_cases_loads_no_backend "$@"
