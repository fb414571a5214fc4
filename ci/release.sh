#!/usr/bin/env bash
# A release, step by step; each stops at the first thing that is not right. Without an option nothing leaves this
# folder: checks, sdist and wheel in OUT (default: dist), twine's check. --tag also tags the commit; --publish also
# signs (where CI has an identity to sign with) and uploads, and wants the tag.
# PYTHON names an interpreter with hatchling and twine; without it an environment is made.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mode=${1:-}
out=${OUT:-dist}
refuse() { # what was expected, what came and how to mend it
    echo "release: $1" >&2
    exit 1
}
case $mode in "" | --tag | --publish) ;; *) refuse "expected --tag, --publish or nothing; got $mode" ;; esac

echo "== check"
version=$(sed -n 's/^__version__.* = "\(.*\)"$/\1/p' kernels/fanfill_kernels/__init__.py)
tag=v$version
[ -n "$version" ] || refuse "expected __version__ in kernels/fanfill_kernels/__init__.py; got none"
[ -z "$(git status --porcelain)" ] || refuse "expected a clean tree; got changes: commit them (git status)"
grep -Eq "^## \[${version//./\\.}\] - [0-9]{4}-[0-9]{2}-[0-9]{2}$" CHANGELOG.md ||
    refuse "expected '## [$version] - YYYY-MM-DD' in CHANGELOG.md; got none: rename [Unreleased], or raise __version__"
grep -qx "version: $version" .github/CITATION.cff ||
    refuse "expected version: $version in .github/CITATION.cff; got $(grep ^version: .github/CITATION.cff)"
at=$(git rev-parse -q --verify "refs/tags/$tag^{commit}" || true)
if [ -n "$at" ] && [ "$at" != "$(git rev-parse HEAD)" ]; then
    refuse "expected no tag $tag on another commit; got one at $at: a release is never changed, raise __version__"
fi
if [ "$mode" = --publish ]; then
    [ -n "$at" ] || refuse "expected the tag $tag; got none: ci/release.sh --tag makes it"
    home=$(sed -n 's/^Homepage = "\(.*\)"$/\1/p' pyproject.toml)
    remote=$(git remote get-url origin 2>/dev/null || true)
    [ "${remote%.git}" = "$home" ] ||
        refuse "expected origin to be pyproject.toml's Homepage, $home; got '$remote': state the URL that people see"
fi

python=${PYTHON:-}
if [ -z "$python" ]; then
    python3 -m venv "$scratch/venv"
    python=$scratch/venv/bin/python
    "$python" -m pip install --quiet --no-compile hatchling twine pypi-attestations cffconvert
    echo "== citation"
    "$scratch/venv/bin/cffconvert" --validate --infile .github/CITATION.cff
fi

echo "== build $version"
mkdir -p "$out"
[ -z "$(ls "$out")" ] || refuse "expected an empty folder $out; got $(ls "$out" | head -1): remove it, or name another by OUT"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) "$python" -m hatchling build -d "$out" >"$scratch/build.log" 2>&1 ||
    { cat "$scratch/build.log"; exit 1; }
"$python" -m twine check --strict "$out"/*
(cd "$out" && sha256sum ./*.whl ./*.tar.gz)

if [ "$mode" = --tag ] && [ -z "$at" ]; then
    echo "== tag"
    git tag -a "$tag" -m "fanfill $version"
fi
if [ "$mode" = --publish ]; then
    # Each file's statement of who built it, signed with the identity of the CI run.
    echo "== attest"
    attest=
    if [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}${CI_JOB_JWT:-}" ]; then
        "$python" -m pypi_attestations sign "$out"/*.whl "$out"/*.tar.gz
        attest=--attestations
    fi
    echo "== upload"
    "$python" -m twine upload --non-interactive $attest "$out"/*
else
    echo "nothing was uploaded: ci/release.sh --tag, git push origin $tag, and CI runs ci/release.sh --publish"
fi
