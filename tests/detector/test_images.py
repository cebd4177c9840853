"""Every kind of image file becomes the same kind of array, or a message that names the file."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.data.sample import image_size
from detector.images import normalise, prepare, read_image, stack
from maenas.errors import MaenasError
from maenas.spec import InputSpec

RNG = np.random.default_rng(0)
PIXELS = cv2.resize(RNG.integers(0, 256, (6, 8, 3), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)  # smooth
LOSSLESS = ("png", "bmp", "tiff", "webp")
LOSSY = ("jpeg", "gif")


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_a_lossless_file_gives_its_pixels(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    np.testing.assert_array_equal(read_image(save(tmp_path / f"a.{suffix}", PIXELS, **options)), PIXELS)


def test_a_jpeg_is_what_opencv_decodes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", PIXELS, quality=90)
    expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    assert np.abs(read_image(path).astype(int) - expected).max() <= 2  # decoders round differently


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = read_image(save(tmp_path / "a.png", PIXELS, exif=exif))
    upright = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS[::-1].transpose(1, 0, 2),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: PIXELS[:, ::-1].transpose(1, 0, 2),
    }
    np.testing.assert_array_equal(turned, upright[orientation])


def test_grey_is_the_same_in_all_channels(tmp_path: Path) -> None:
    grey = PIXELS[..., 0]
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", grey)), np.dstack([grey] * 3))


def test_sixteen_bits_keep_their_upper_eight(tmp_path: Path) -> None:
    deep = PIXELS.astype(np.uint16) * 256 + 77
    for name, pixels in (("grey", deep[..., 0]), ("colour", deep)):
        path = tmp_path / f"{name}.png"
        cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)
        expected = pixels >> 8
        np.testing.assert_array_equal(read_image(path), expected if expected.ndim == 3 else np.dstack([expected] * 3))


@pytest.mark.parametrize(
    ("shape", "largest", "dim"),
    [
        *(((4, 4), largest, dim) for largest, dim in ((255, True), (4095, True), (4096, False), (0, False))),
        *(((4, 4, 3), largest, dim) for largest, dim in ((255, True), (4095, True), (4096, False))),
    ],
)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_without_the_upper_four_are_told(
    shape: tuple[int, ...], largest: int, dim: bool, suffix: str, tmp_path: Path
) -> None:
    told: list[str] = []
    path = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(path), np.full(shape, largest, np.uint16))
    read_image(path, warn=told.append)
    assert told == dim * [
        f"image {path}: 16 bits, but no value above {largest}, so it is nearly black; multiply values up to 65535"
    ]


@pytest.mark.parametrize("value", [0, 255])
def test_bitmaps_of_sixteen_bits_a_pixel_are_not_deep(value: int, tmp_path: Path) -> None:
    header = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 62, 0, 0, 54, 40, 2, 2, 1, 16, 0, 8, 0, 0, 0, 0)
    (tmp_path / "a.bmp").write_bytes(header + bytes([value]) * 8)
    told: list[str] = []
    assert read_image(tmp_path / "a.bmp", warn=told.append).max() == value
    assert told == []


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is HEIC or AVIF, or a film; convert it to JPEG or PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "fetch that with git lfs pull"),
    ],
)
def test_other_files_under_the_name_of_an_image_are_told_with_what_to_do(
    start: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "a.jpg").write_bytes(start)
    with pytest.raises(MaenasError, match=message):
        read_image(tmp_path / "a.jpg")


def test_transparent_pixels_are_white_and_opaque_ones_stay(tmp_path: Path) -> None:
    alpha = np.full(PIXELS.shape[:2], 255, np.uint8)
    alpha[:10] = 0
    result = read_image(save(tmp_path / "a.png", np.dstack([PIXELS, alpha])))
    assert (result[:10] == 255).all()
    np.testing.assert_array_equal(result[10:], PIXELS[10:])


@pytest.mark.parametrize("transparency", [None, 3, b"\x00\xff\x80"])
def test_a_palette_is_looked_up(transparency: int | bytes | None, tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "a.png", **options)
    result = read_image(tmp_path / "a.png")
    opaque = (result != 255).any(axis=2)
    expected = np.asarray(image.convert("RGB"))
    if transparency is None:
        np.testing.assert_array_equal(result, expected)
    else:
        assert result.shape == expected.shape
        assert opaque.any()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "1", "LA"])
def test_other_colour_spaces_are_converted(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(PIXELS).convert(mode).save(path)
    assert read_image(path).shape == PIXELS.shape


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (30, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert abs(int(read_image(tmp_path / "a.gif").mean()) - 30) <= 2


@pytest.mark.parametrize("mode", ["I", "F"])
def test_thirty_two_bits_are_refused(mode: str, tmp_path: Path) -> None:
    Image.new(mode, (8, 8)).save(tmp_path / "a.tiff")
    with pytest.raises(MaenasError, match=r"a\.tiff: 32 bits .* convert"):
        read_image(tmp_path / "a.tiff")


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    for name, reason in (
        ("empty.jpg", "is empty"),
        ("text.jpg", "damaged or no image"),
        ("none.jpg", "no such file"),
        ("", "not a regular file"),
    ):
        with pytest.raises(MaenasError, match=reason) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    with pytest.raises(MaenasError, match=r"bomb\.png: too many pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.filterwarnings("ignore")  # Pillow warns about some damage before it raises
@pytest.mark.parametrize("suffix", [*LOSSLESS, *LOSSY])
def test_a_damaged_file_is_read_or_refused(suffix: str, tmp_path: Path) -> None:
    whole = save(tmp_path / f"whole.{suffix}", PIXELS).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / f"damaged.{suffix}"
    messages = []
    for number in range(150):
        data = bytearray(whole)
        if number % 2:
            del data[int(rng.integers(1, len(data))) :]
        for _ in range(int(rng.integers(0, 6))):
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
        path.write_bytes(data)
        try:
            image = read_image(path)
            assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
        except MaenasError as error:
            messages.append(str(error))
    assert len(messages) > 20
    assert all(str(path) in message for message in messages)


@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path) -> None:
    path = save(tmp_path / f"a.{suffix}", PIXELS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MaenasError, match="cannot be read"):
        read_image(path)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_lacks_its_last_bytes_is_used_and_told(options: dict[str, bool], tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", cv2.resize(PIXELS, (640, 480)), quality=90, **options)
    whole = read_image(path).astype(int)
    path.write_bytes(path.read_bytes()[:-20])
    told: list[str] = []
    cut = read_image(path, warn=told.append)
    assert np.abs(cut - whole)[: 480 - 16].mean() < 2  # a lost block is 16 rows high
    assert [str(path) in text for text in told] == [True]


def test_an_orientation_that_exif_does_not_know_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "a.jpg", PIXELS, exif=exif)
    short = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # tag, 16 bits, one value
    long = b"\x01\x12\x00\x04\x00\x00\x00\x01\x00\x01\x00\x01"
    assert path.read_bytes().count(short) == 1
    path.write_bytes(path.read_bytes().replace(short, long))
    assert image_size(path) == (64, 48)
    assert read_image(path).shape == PIXELS.shape


sides = st.integers(1, 300)


@given(sides, sides, st.sampled_from(["stretch", "letterbox"]), st.integers(1, 5), st.integers(1, 5))
def test_boxes_go_to_the_network_and_back(width: int, height: int, resize: str, rows: int, columns: int) -> None:
    size = InputSpec(32 * rows, 32 * columns, resize=resize)  # type: ignore[arg-type]
    prepared, placement = prepare(np.zeros((height, width, 3), np.uint8), size)
    assert prepared.shape == (size.height, size.width, 3)
    whole = torch.tensor([[0.0, 0.0, width, height]])
    inside = placement.to_network(whole)
    assert (inside[0, 2:] <= torch.tensor([size.width, size.height]) * (1 + 1e-6)).all()
    torch.testing.assert_close(placement.to_image(inside), whole)
    if resize == "stretch":
        torch.testing.assert_close(inside, torch.tensor([[0.0, 0.0, size.width, size.height]]))


def test_a_letterbox_keeps_the_ratio_and_fills_with_black() -> None:
    image = np.full((50, 100, 3), 200, np.uint8)
    prepared, placement = prepare(image, InputSpec(64, 64, resize="letterbox"))
    assert placement[2:] == (0.64, 0.64)
    assert (prepared[:32] == 200).all()
    assert (prepared[32:] == 0).all()


def test_a_bright_square_stays_under_its_box() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[30:60, 100:150] = 255
    for resize in ("stretch", "letterbox"):
        prepared, placement = prepare(image, InputSpec(64, 96, resize=resize))
        box = placement.to_network(torch.tensor([[100.0, 30.0, 150.0, 60.0]]))[0]
        rows, columns = np.nonzero(prepared[..., 0] > 127)
        found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (box - found).abs().max() <= 1


def test_the_network_gets_channels_and_range_of_its_spec() -> None:
    images = stack([PIXELS, PIXELS[::-1]])
    assert images.shape == (2, 3, *PIXELS.shape[:2])
    plain = normalise(images, InputSpec())
    np.testing.assert_array_equal(plain[0].permute(1, 2, 0).numpy(), PIXELS)
    other = normalise(images, InputSpec(channel_order="bgr", value_range=(-1.0, 1.0)))
    torch.testing.assert_close(other, plain.flip(1) / 127.5 - 1)
