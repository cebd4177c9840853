from pathlib import Path

import pytest

from maenas.errors import MaenasError
from maenas.latency.device import Device, Figure, get_device, load_devices, peak_ops_per_s

BOARD = """schema: maenas/devices@1
devices:
  - id: my-board
    name: My board
    sm_count: {value: 4, source: measured, verified: true}
    boost_clock_mhz: {value: 1000, source: measured, verified: true}
    memory_bandwidth_gbs: {value: 50, source: measured, verified: true}
    l2_cache_mb: {value: 1, source: measured, verified: true}
    fp32_tflops: {value: 1, source: measured, verified: true}
    fp16_tflops: {value: 2, source: measured, verified: true}
    int8_tops: null
"""


def figures(device: Device) -> list[Figure]:
    return [value for value in vars(device).values() if isinstance(value, Figure)]


def test_the_shipped_catalogue_reads() -> None:
    devices = load_devices()
    assert list(devices)[:3] == ["t4", "p100", "v100"]
    assert len(devices) == 36
    assert all(device.id == id_ for id_, device in devices.items())


def test_only_hardware_without_the_arithmetic_has_no_rate() -> None:
    missing = {
        device.id for device in load_devices().values() if device.fp16_tflops is None or device.int8_tops is None
    }
    assert missing == {"p100"}


@pytest.mark.parametrize("device", load_devices().values(), ids=lambda device: device.id)
def test_rates_grow_as_precision_shrinks(device: Device) -> None:
    assert device.fp16_tflops is not None
    assert peak_ops_per_s(device, precision="fp32") < peak_ops_per_s(device, precision="fp16")
    if device.int8_tops is not None and device.id != "v100":  # the V100 has no INT8 tensor cores
        assert 1.9 < device.int8_tops.value / device.fp16_tflops.value < 2.1


@pytest.mark.parametrize("device", load_devices().values(), ids=lambda device: device.id)
def test_the_fp32_rate_follows_from_multiprocessors_and_clock(device: Device) -> None:
    # A slip in one of the three figures would show. An SM has 64 or 128 lanes, and each adds and multiplies per cycle.
    lanes = device.fp32_tflops.value * 1e12 / (device.sm_count.value * device.boost_clock_mhz.value * 1e6 * 2)
    assert min(abs(lanes / 64 - 1), abs(lanes / 128 - 1)) < 0.02


def test_unverified_figures_say_so_in_their_source() -> None:
    for device in load_devices().values():
        for figure in figures(device):
            assert figure.source.startswith("unchecked") != figure.verified


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("t4", "t4"),
        ("T4", "t4"),
        ("Tesla T4", "t4"),
        ("RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 5070 Ti", "rtx5070ti"),
        ("NVIDIA RTX A6000", "rtx-a6000"),
        ("a100-40gb", "a100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("agx-orin", "orin-agx"),
        ("Orin_AGX", "orin-agx"),
        ("xavier nx", "xavier-nx"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_a_device_is_found_under_its_usual_names(name: str, id_: str) -> None:
    assert get_device(name).id == id_


def test_an_unknown_device_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MaenasError, match=r"unknown device 'rtx4095'; did you mean rtx4090\?") as caught:
        get_device("rtx4095")
    assert "t4, p100, v100" in str(caught.value)
    assert "write a YAML file like latency_tables/devices.yaml" in str(caught.value)
    for name in ("", "-", "quantum computer"):
        with pytest.raises(MaenasError, match="unknown device"):
            get_device(name)


def test_a_device_can_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text(BOARD)
    assert get_device(str(path)).name == "My board"
    assert get_device(f"{path}#my-board").name == "My board"


def test_a_file_with_several_devices_needs_an_id(tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text(BOARD + BOARD.partition("devices:\n")[2].replace("my-board", "other"))
    assert get_device(f"{path}#other").id == "other"
    with pytest.raises(MaenasError, match=r"several devices; name one of .*#my-board, .*#other"):
        get_device(str(path))
    with pytest.raises(MaenasError, match="no device 'third'"):
        get_device(f"{path}#third")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("my-board", "My Board", ":3: devices[0]: the id 'My Board' must be"),
        ("value: 50", "value: -50", ":7: devices[0].memory_bandwidth_gbs: the value must be more than zero"),
        ("value: 4,", "value: 4.5,", ":3: devices[0]: sm_count must be a whole number"),
        ("value: 50, source: measured", "value: 50", ":7: devices[0].memory_bandwidth_gbs.source: this key is missing"),
        ("source: measured", "source: ''", "the source must not be empty"),
        ("int8_tops", "int4_tops", "devices[0].int4_tops: unknown key; did you mean int8_tops?"),
        ("devices@1", "devices@2", ":1: schema: must be 'maenas/devices@1'"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text(BOARD.replace(old, new))
    with pytest.raises(MaenasError) as caught:
        get_device(str(path))
    assert f"{path}" in str(caught.value)
    assert message in str(caught.value)


def test_two_devices_cannot_share_a_name(tmp_path: Path) -> None:
    path = tmp_path / "boards.yaml"
    path.write_text(BOARD + BOARD.partition("devices:\n")[2])
    with pytest.raises(MaenasError, match="share the name 'myboard'"):
        load_devices(path)


def test_a_missing_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="there is no such file"):
        get_device(str(tmp_path / "boards.yaml"))


def test_a_precision_that_the_hardware_lacks_is_refused() -> None:
    assert peak_ops_per_s(get_device("t4"), precision="int8") == 130e12
    with pytest.raises(MaenasError, match=r"P100.* has no int8"):
        peak_ops_per_s(get_device("p100"), precision="int8")
