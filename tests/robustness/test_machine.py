"""The facts about the machine: from the files that Linux keeps, and without them."""

from __future__ import annotations

from pathlib import Path

from fanfill import machine


def test_machine_facts_come_from_the_files_that_linux_keeps(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor : 0\nmodel name\t: A CPU @ 2: fast\nflags\t\t: fpu sse2 avx avx2\n"
    )
    assert machine.cpu_model(tmp_path / "cpuinfo") == "A CPU @ 2: fast"
    assert machine.vector_bits(tmp_path / "cpuinfo") == 256
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd aes\n")
    assert machine.vector_bits(tmp_path / "arm") == 128
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    2000 kB\n")
    assert machine.available_memory(tmp_path) == 2_048_000
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    assert machine.available_memory(tmp_path) == 2_048_000
    limit.write_text("1000000\n")
    assert machine.available_memory(tmp_path) == 1_000_000


def test_a_processor_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_bytes(b"model name\t: Prozessor\xae \xc3\xbc\nflags\t: avx2\n")
    assert machine.cpu_model(tmp_path / "cpuinfo") == "Prozessor\ufffd ü"
    assert machine.vector_bits(tmp_path / "cpuinfo") == 256


def test_machine_facts_that_no_file_tells_are_none_or_the_architecture(tmp_path: Path) -> None:
    assert machine.vector_bits(tmp_path / "absent") is None
    assert machine.available_memory(tmp_path / "absent") is None
    assert machine.cpu_model(tmp_path / "absent")
