"""The folders of a process's cgroups, from files as the kernel writes them: bytes, unescaped or in octal."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fanfill import cgroup, machine
from fanfill.cpu import threads

V2 = b"42 31 0:38 %s %s rw,relatime - cgroup2 cgroup2 rw\n"
V1 = b"32 31 0:29 %s %s rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
MOUNT = b"/sys/fs/cgroup"


def system(root: Path, own: bytes, mounts: bytes | None = None, **limits: bytes) -> Path:
    """A root with these files; a limit is the contents of `cpu.max` in the folder below the mount."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_bytes(own)
    if mounts is not None:
        (root / "proc/self/mountinfo").write_bytes(mounts)
    return root


def limit(root: Path, folder: bytes, **files: str) -> None:
    """Write a cgroup's files: dots in their names are underscores here."""
    place = Path(os.fsdecode(os.path.join(os.fsencode(root), folder)))
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (place / name.replace("_", ".", 1)).write_text(text)


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fanfill.system.affinity", lambda: 64)


NAMES = [
    b"a:b",
    b"system.slice:docker:0123",  # a container's, with systemd's cgroup driver
    b"ends:",
    b"::",
    "größe-日本".encode(),
    b"\xff\xfe",
    b"with space\ttab",
    b"back\\slash\\040",
    b"split\x0b\x0c\x1c\x85\xe2\x80\xa8lines\r",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("deeper", [b"", b"/below"], ids=["own", "parent's"])
@pytest.mark.parametrize("mounted", [True, False], ids=["mountinfo", "guessed"])
def test_a_quota_is_found_whatever_the_cgroup_is_called(
    tmp_path: Path, name: bytes, deeper: bytes, mounted: bool
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    system(two, b"0::/top/%s%s\n" % (name, deeper), V2 % (b"/", MOUNT) if mounted else None)
    limit(two, MOUNT[1:] + b"/top/" + name, cpu_max="250000 100000", memory_max="1000000")
    assert threads.usable_cpus(two) == 3
    lines = b"4:memory:/top/OWN\n3:cpu,cpuacct:/top/OWN\n1:name=systemd:/:x\n".replace(b"OWN", name + deeper)
    system(one, lines, V1 % (b"/", MOUNT + b"/cpu,cpuacct") if mounted else None)
    limit(one, MOUNT[1:] + b"/cpu,cpuacct/top/" + name, cpu_cfs_quota_us="150000", cpu_cfs_period_us="100000")
    limit(one, MOUNT[1:] + b"/memory/top/" + name, memory_limit_in_bytes="2000000")
    assert threads.usable_cpus(one) == 2
    for root, expected in ((two, 1_000_000), (one, 2_000_000)):
        (root / "proc/meminfo").write_text("MemAvailable:    9000 kB\n")
        assert machine.available_memory(root) == expected


@pytest.mark.parametrize(
    ("own", "root", "folder", "cpus"),
    [
        # Without a namespace of cgroups: a container sees the host's path, and its own cgroup mounted.
        (b"/docker/ab", b"/docker/ab", b"", 2),
        (b"/docker/ab/in:side", b"/docker/ab", b"/in:side", 2),
        (b"/docker/a b", rb"/docker/a\040b", b"", 2),
        (b"/docker/a\\b", rb"/docker/a\134b", b"", 2),
        # In a namespace, whose root is "/"; what was mounted outside of it lies above.
        (b"/", b"/", b"", 2),
        (b"/", b"/..", b"", 2),
        (b"/x", b"/../..", b"", 2),
        (b"/../x", b"/..", b"/x", 2),
        # Moved out of the namespace: the mount's own folder alone can be an ancestor.
        (b"/../x", b"/", b"", 2),
        (b"/../x", b"/", b"/x", 64),
        # Another cgroup's mount says nothing of us.
        (b"/docker/ab", b"/docker/cd", b"", 64),
        (b"/docker/abc", b"/docker/ab", b"", 64),
    ],
)
def test_namespaces_and_mounts_of_a_part(
    tmp_path: Path, own: bytes, root: bytes, folder: bytes, cpus: int
) -> None:
    system(tmp_path, b"0::%s\n" % own, V2 % (root, MOUNT))
    limit(tmp_path, MOUNT[1:] + folder, cpu_max="200000 100000")
    assert threads.usable_cpus(tmp_path) == cpus


def test_mounts_are_where_mountinfo_says(tmp_path: Path) -> None:
    place = rb"/mnt/c\040groups\011\134\303\274"
    system(tmp_path, b"3:cpuacct,cpu:/a\n0::/a\n", V2 % (b"/", place) + V1 % (b"/", b"/elsewhere"))
    limit(tmp_path, b"mnt/c groups\t\\\xc3\xbc/a", cpu_max="300000 100000")
    assert threads.usable_cpus(tmp_path) == 3
    limit(tmp_path, b"elsewhere/a", cpu_cfs_quota_us="100000", cpu_cfs_period_us="100000")
    assert threads.usable_cpus(tmp_path) == 1
    # Negative control: of another controller.
    assert cgroup.folders("pids", tmp_path) == [
        os.fsencode(tmp_path) + b"/mnt/c groups\t\\\xc3\xbc" + below for below in (b"", b"/a")
    ]


def test_nothing_is_found_where_the_system_keeps_none(tmp_path: Path) -> None:
    assert cgroup.folders("cpu", tmp_path) == []
