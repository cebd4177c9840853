import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maenas.errors import MaenasError
from maenas.units import (
    format_bytes,
    format_count,
    format_latency,
    number_of,
    parse_bytes,
    parse_flops,
    parse_latency_s,
    parse_params,
    parse_sides,
)

PARSERS: tuple[Callable[[str], float], ...] = (parse_latency_s, parse_params, parse_flops, parse_bytes)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3ms", 3e-3),
        ("2.5 ms", 2.5e-3),
        ("80us", 80e-6),
        ("80µs", 8e-5),
        ("80\u03bcs", 8e-5),
        ("0.003s", 3e-3),
        (" .5ns ", 5e-10),
        ("1e-3s", 1e-3),
    ],
)
def test_a_latency_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_latency_s(text) == pytest.approx(seconds, rel=1e-15)


def test_a_latency_is_the_nearest_float() -> None:
    assert parse_latency_s("80us") == 80e-6
    assert parse_latency_s("2.9ms") == 0.0029


@pytest.mark.parametrize(("text", "n"), [("30M", 30_000_000), ("8.5k", 8500), ("8.5K", 8500), ("1.5G", 1_500_000_000)])
def test_parameters_are_read_as_a_whole_number(text: str, n: int) -> None:
    assert parse_params(text) == n


@pytest.mark.parametrize("text", ["18GFLOPs", "18G", "18 GFLOPS", "18000 MFLOP", "18000000000FLOPs"])
def test_flops_are_read_with_or_without_the_word(text: str) -> None:
    assert parse_flops(text) == 18_000_000_000


@pytest.mark.parametrize(("text", "n"), [("50MB", 50_000_000), ("64MiB", 64 * 2**20), ("512B", 512), ("1.5kB", 1500)])
def test_decimal_and_binary_sizes_differ(text: str, n: int) -> None:
    assert parse_bytes(text) == n


def test_a_latency_without_a_unit_is_answered_with_an_example() -> None:
    with pytest.raises(MaenasError, match=r"^3: give a unit, for example 3ms"):
        parse_latency_s("3")


@pytest.mark.parametrize("parse", PARSERS)
@pytest.mark.parametrize(
    "text", ["", " ", "nan", "inf", "-3ms", "0ms", "0G", "0B", "1e999s", "1e999G", "1e-999s", "3 x", "٣ms"]
)
def test_what_is_no_positive_quantity_is_refused(parse: Callable[[str], float], text: str) -> None:
    with pytest.raises(MaenasError, match="is written like"):
        parse(text)


def test_case_counts_where_it_changes_the_meaning() -> None:
    for parse, text in ((parse_params, "30m"), (parse_bytes, "50Mb"), (parse_latency_s, "3Ms"), (parse_flops, "18g")):
        with pytest.raises(MaenasError, match="unknown unit"):
            parse(text)


def test_less_than_one_parameter_is_refused() -> None:
    with pytest.raises(MaenasError, match="less than one"):
        parse_params("0.0001K")


def test_an_error_names_the_text_and_the_accepted_forms() -> None:
    with pytest.raises(MaenasError, match=r"^fast: .*3ms, 2\.5 ms, 80us"):
        parse_latency_s("fast")


@pytest.mark.parametrize("parse", PARSERS)
@given(text=st.text(max_size=50) | st.from_regex(r"\A[0-9.eE+-]{0,8} ?[a-zA-Zµ]{0,6}\Z"))
def test_any_text_is_read_or_refused_as_an_error_of_the_user(parse: Callable[[str], float], text: str) -> None:
    try:
        value = parse(text)
    except MaenasError:
        return
    assert value > 0
    assert math.isfinite(value)


@given(seconds=st.floats(min_value=1e-9, max_value=1e5))
def test_a_formatted_latency_reads_back(seconds: float) -> None:
    assert parse_latency_s(format_latency(seconds)) == pytest.approx(seconds, rel=0.006)


@given(n=st.integers(min_value=1000, max_value=10**17))
def test_a_formatted_number_of_parameters_reads_back(n: int) -> None:
    assert parse_params(format_count(n)) == pytest.approx(n, rel=0.006)


@given(n=st.integers(min_value=1, max_value=10**17))
def test_formatted_flops_and_sizes_read_back(n: int) -> None:
    assert parse_flops(format_count(n, "FLOPs")) == pytest.approx(n, rel=0.006)
    assert parse_bytes(format_bytes(n)) == pytest.approx(n, rel=0.006)


def test_formats_show_three_digits_in_the_fitting_unit() -> None:
    assert [format_latency(x) for x in (0.00287, 0.012, 0.000999996, 3e-7)] == [
        "2.87 ms",
        "12.0 ms",
        "1.00 ms",
        "300 ns",
    ]
    assert [format_count(x) for x in (28.4e6, 950, 999_999)] == ["28.4M", "950", "1.00M"]
    assert format_count(18.2e9, "FLOPs") == "18.2 GFLOPs"
    assert format_bytes(50_331_648) == "50.3 MB"


def test_only_one_is_singular() -> None:
    assert [number_of(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert [number_of(2, noun) for noun in ("class", "box", "epoch")] == ["2 classes", "2 boxes", "2 epochs"]


@pytest.mark.parametrize(("text", "sides"), [("640", (640, 640)), ("48x320", (48, 320)), (" 1X8192 ", (1, 8192))])
def test_an_input_is_one_side_or_height_and_width(text: str, sides: tuple[int, int]) -> None:
    assert parse_sides(text) == sides


@pytest.mark.parametrize("text", ["", "0", "8193", "48x", "x320", "48x320x3", "-1", "48 x 320", "a" * 100, "1e3", "٣"])
def test_what_is_no_input_is_refused(text: str) -> None:
    with pytest.raises(MaenasError, match=r"an input is one side, 640, or height x width, 480x640; 1 to 8192 pixels"):
        parse_sides(text)
