"""What is free is counted as the system would give it."""

from pathlib import Path

from maenas.memory import free_memory, total_memory

GB = 10**9


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINE = {"proc/meminfo": "MemTotal: 64000000 kB\nMemFree: 1000000 kB\nMemAvailable: 48000000 kB\n"}


def group(place: str, most: str, used: int, inactive: int) -> dict[str, str]:
    folder = f"sys/fs/cgroup/{place}"
    return {
        f"{folder}/memory.max": f"{most}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 5\ninactive_file {inactive}\n",
    }


def test_files_kept_in_memory_are_free(tmp_path: Path) -> None:
    assert free_memory(write(tmp_path, MACHINE)) == 48000000 * 1024


def test_the_tightest_group_counts_also_one_around_ours(tmp_path: Path) -> None:
    groups = group("a/b", "max", 3 * GB, 0) | group("a", str(10 * GB), 8 * GB, 5 * GB) | group("", "max", 0, 0)
    root = write(tmp_path, {**MACHINE, "proc/self/cgroup": "0::/a/b\n", **groups})
    assert free_memory(root) == 7 * GB
    assert total_memory(root) == min(10 * GB, total_memory(tmp_path / "nowhere"))


def test_a_group_above_its_limit_has_nothing_free(tmp_path: Path) -> None:
    root = write(tmp_path, {**MACHINE, "proc/self/cgroup": "0::/\n", **group("", str(GB), 2 * GB, 0)})
    assert free_memory(root) == 0


def test_groups_of_the_first_version_count(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory/job"
    files = {
        "proc/self/cgroup": "5:cpu:/job\n4:memory:/job\n0::/job\n",
        f"{folder}/memory.limit_in_bytes": str(4 * GB),
        f"{folder}/memory.usage_in_bytes": str(3 * GB),
        f"{folder}/memory.stat": f"inactive_file 7\ntotal_inactive_file {GB}\n",
    }
    assert free_memory(write(tmp_path, {**MACHINE, **files})) == 2 * GB


def test_this_machine_has_some() -> None:
    assert 0 < free_memory() < total_memory()


def test_where_the_system_does_not_say_what_is_free_all_there_is_counts(tmp_path: Path) -> None:
    assert free_memory(tmp_path) == total_memory(tmp_path)
