# Sourced by interpreters.sh and matrix.sh, from the project's folder: where the supported Pythons are.
# shellcheck shell=bash
version='import sys; print("%d.%d" % sys.version_info[:2])'

find_python() { # 3.12 -> a command that runs it; a version manager's shim may stand there with nothing behind it
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if [ "$("$candidate" -c "$version" 2>/dev/null)" = "$1" ]; then
            echo "$candidate"
            return
        fi
    done
}
