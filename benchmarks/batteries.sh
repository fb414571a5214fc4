#!/usr/bin/env bash
# Other people's batteries, where they are installed: TestU01's SmallCrush and PractRand, on words along the index, the
# name and the seed and on every law's own bits (benchmarks/feeds.py lists them). The negative controls, stream
# version 1's form of uniform(0, 1), must fail. Not in CI: neither battery is in Debian's main archive or on PyPI.
#
#   benchmarks/batteries.sh                             all feeds: some 20 s each on a free core
#   benchmarks/batteries.sh normal-24 words-seed-20     these
#
#   TESTU01=DIR      a TestU01 that was built with --prefix=DIR; without it, the system's is looked for:
#                        git clone https://github.com/umontreal-simul/TestU01-2009 && cd TestU01-2009
#                        ./configure --prefix="$HOME/testu01" && make && make install
#   PRACTRAND=FILE   PractRand's RNG_test; without it, the one on PATH: https://pracrand.sourceforge.net/
#   LENGTH=1GB       how much PractRand reads of a feed, at least 512MB
#   PYTHON           the interpreter whose environment has the extra test
#
# Prints a row for each battery and feed. Exit code 1: a feed fails, or a control does not; 2: no battery is there.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}
length=${LENGTH:-1GB}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

practrand=${PRACTRAND:-$(command -v RNG_test || true)}
crush=$scratch/smallcrush
flags=(-O2)
[ -z "${TESTU01:-}" ] || flags+=("-I$TESTU01/include" "-L$TESTU01/lib" "-Wl,-rpath,$TESTU01/lib")
if ! ${CC:-cc} "${flags[@]}" -o "$crush" smallcrush.c -ltestu01 -lprobdist -lmylib -lm 2>"$scratch/errors"; then
    [ -z "${TESTU01:-}" ] || cat "$scratch/errors" >&2
    echo "TestU01: left out: no unif01.h or libtestu01; the head of $0 says how to get it" >&2
    crush=
fi
[ -n "$practrand" ] || echo "PractRand: left out: no RNG_test; the head of $0 says where it is" >&2
[ -n "$crush$practrand" ] || exit 2

"$python" feeds.py >"$scratch/feeds"
for name in "$@"; do
    grep -q "^$name"$'\t' "$scratch/feeds" || { "$python" feeds.py "$name" || exit 2; }
done
wrong=0

# One row: battery, feed, what it found; $4 says whether it failed. Counts the rows that are not as they must be.
row() {
    local verdict=passes
    [ "$4" = 0 ] || verdict="**fails**"
    [ "$5" = feed ] && [ "$4" != 0 ] && wrong=$((wrong + 1))
    [ "$5" = control ] && [ "$4" = 0 ] && wrong=$((wrong + 1))
    echo "| $1 | $2 | $verdict | $3 |"
}

echo "| battery | bits | | least p-value, or what failed |"
echo "|---|---|---|---|"
while IFS=$'\t' read -r name kind text; do
    [ $# = 0 ] || [[ " $* " == *" $name "* ]] || continue
    [ "$kind" = feed ] || text="control: $text"
    if [ -n "$crush" ]; then
        # A feed ends by a closed pipe, which is no error: the last command's code counts, and 2 is an early end.
        code=0
        "$python" feeds.py "$name" | "$crush" >"$scratch/found" 2>"$scratch/report" || code=$?
        [ "$code" -le 1 ] || { cat "$scratch/report" >&2; exit 2; }
        if [ "$code" = 0 ]; then
            found=$(awk -F'\t' 'NR == 1 { print $3 " of " $1 ", " $4 }' "$scratch/found")
        else
            found=$(awk -F'\t' 'NR > 1 { printf "%s%s %s", (NR > 2 ? ", " : ""), $4, $3 }' "$scratch/found")
        fi
        row SmallCrush "$text" "$found" "$code" "$kind"
    fi
    if [ -n "$practrand" ]; then
        "$python" feeds.py "$name" | "$practrand" stdin32 -tlmin "$length" -tlmax "$length" >"$scratch/found"
        code=0
        grep -q 'FAIL' "$scratch/found" && code=1
        found=$(awk '/FAIL|suspicious|no anomalies/ { $1 = $1; print }' "$scratch/found" | head -3 | paste -sd ';')
        row "PractRand, $length" "$text" "${found//|/,}" "$code" "$kind"
    fi
done <"$scratch/feeds"
[ "$wrong" = 0 ] || { echo "$wrong rows are not as they must be" >&2; exit 1; }
