"""From listed images, encoded in files or bytes, to one uint8 tensor of one shape. Sets no global state of Pillow's."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from autoslim.data._listing import File, Listing, Shape
from autoslim.errors import DataError

_HEADERS = 100_000  # images whose headers are read to find the input shape, at most
_TOGETHER = 2000  # likewise, of images that are not read one by one
_CHUNK = 256  # images read and decoded by one task: enough that the pool's own cost does not show
_SIDE = 224  # of the input, when the images' sizes differ and none was asked for
_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
# A palette is resolved with its transparency, or Pillow warns; premultiplied colours have no direct way to RGB.
_FIRST = {"P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "La": "LA"}
# What Pillow's decoders are known to raise on damaged files.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    ArithmeticError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Decoded:
    """The images that could be read, uint8 [M, C, H, W].

    Attributes:
        images: They.
        kept: Their indices.
        failed: The others, and why.
        resized: Whether one had another size.
        dark: How many have more than 8 bits a pixel, where none of these has a value above 255; else 0.
    """

    images: torch.Tensor
    kept: NDArray[np.int64]
    failed: tuple[str, ...]
    resized: bool
    dark: int


def find_shape(listings: Sequence[Listing]) -> tuple[Shape, str]:
    """The input shape (C, H, W) that follows from the images' headers, and a note if their sizes differ ("" if not).

    Three channels as soon as one image has colour; the common size, or a square of 224 or of the median shorter side.
    """
    every = -(-sum(map(len, listings)) // _HEADERS)  # of many images every second, third, ... is looked at
    headers = np.concatenate([_read_headers(listing.take(_some(listing, every))) for listing in listings])
    headers = headers[headers[:, 0] > 0]
    if not len(headers):  # decoding will tell what is wrong with them
        return (1, 1, 1), ""
    channels = 3 if headers[:, 2].any() else 1
    areas = headers[:, 0] * headers[:, 1]
    (h0, w0, _), (h1, w1, _) = headers[areas.argmin()].tolist(), headers[areas.argmax()].tolist()
    if (headers[:, :2] == (h0, w0)).all():
        return (channels, h0, w0), ""
    side = min(_SIDE, int(np.median(headers[:, :2].min(axis=1))))
    return (channels, side, side), (
        f"The images' sizes differ, from {h0}x{w0} to {h1}x{w1} (height x width): all are brought to {side}x{side}. "
        "Choose another size with --input."
    )


def _some(listing: Listing, every: int) -> NDArray[np.int64]:
    """Indices of every so many-th image; some that lie together, where they are not read one by one."""
    if listing.pieces is None:
        return np.arange(0, len(listing), every)
    return np.sort(listing.pieces.shuffle(torch.Generator().manual_seed(0))[:_TOGETHER])


def sizes_differ(listing: Listing, shape: Shape) -> bool:
    """Whether an image has another height or width than `shape` (C, H, W), by its header."""
    sizes = _read_headers(listing)[:, :2]
    return bool(((sizes > 0) & (sizes != shape[1:])).any())


def decode_listing(listing: Listing, shape: Shape) -> Decoded:
    """Decodes all images to `shape` (C, H, W) on a pool of threads; those that can't be read are left out and named."""
    images = torch.empty((len(listing), *shape), dtype=torch.uint8)
    pixels = images.numpy()
    resized = np.zeros(len(listing), dtype=bool)
    deep = np.zeros(len(listing), dtype=np.int64)  # the highest value, of images with more than 8 bits a pixel
    mode, size = ("L" if shape[0] == 1 else "RGB"), (shape[2], shape[1])

    def decode(position: int, opened: Image.Image) -> None:
        image = _upright(opened, mode)
        if opened.mode.startswith("I"):
            deep[position] = np.asarray(opened).max()
        if image.size != size:
            image, resized[position] = cover(image, size), True
        pixels[position] = np.asarray(image).reshape(*shape[1:], shape[0]).transpose(2, 0, 1)

    failed = _visit(listing, decode)
    kept = np.setdiff1d(np.arange(len(listing)), [position for position, _ in failed])
    if failed:
        for target, position in enumerate(kept):  # in place: a copy of all could be gigabytes
            pixels[target] = pixels[position]
    dark = int((deep[kept] > 0).sum()) if deep[kept].max(initial=0) <= 255 else 0
    return Decoded(images[: len(kept)], kept, tuple(text for _, text in failed), bool(resized[kept].any()), dark)


def decode_image(
    name: str, file: File, shape: Shape, transform: Callable[[Image.Image], Image.Image] | None
) -> NDArray[np.uint8]:
    """One image as uint8 [H, W, C], by `transform` or scaled to cover `shape` (C, H, W); DataError if unreadable."""
    mode, size = ("L" if shape[0] == 1 else "RGB"), (shape[2], shape[1])
    try:
        with _open(file) as opened:
            image = _upright(opened, mode if transform is None else "RGB")
            image.load()  # what goes wrong from here on is not the file's fault
    except _UNREADABLE as error:
        raise DataError(
            f"{name} can't be read: {_reason(error)}. Expected an image that Pillow can decode. Replace or remove it, "
            "and start anew: the split follows from the list of images."
        ) from error
    if transform is not None:
        image = transform(image)
    elif image.size != size:
        image = cover(image, size)
    return np.asarray(_to_mode(image, mode)).reshape(*shape[1:], shape[0])


def _upright(image: Image.Image, mode: str) -> Image.Image:
    try:
        image.load()
    except (TypeError, AttributeError) as error:  # Pillow's, of a TIFF's tags that are not of their type
        raise OSError(f"broken tags: {error}") from error
    turn = _TURNS.get(read_orientation(image))
    return _to_mode(image if turn is None else image.transpose(turn), mode)


def read_orientation(image: Image.Image) -> int:
    """How the image is to be turned, by its EXIF data: 1 to 8; 1, upright, where there are none that can be read."""
    try:
        told = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 - of broken data Pillow raises whatever it runs into
        return 1
    return told if isinstance(told, int) and told in _TURNS else 1


def describe_resize(shape: Shape) -> str:
    """In words, how `decode_listing` brings an image of another size to `shape`."""
    _, height, width = shape
    if height == width:
        return f"bilinear, shorter side to {height}, centre crop"
    return f"bilinear, scaled to cover {height}x{width}, centre crop"


def _visit(listing: Listing, work: Callable[[int, Image.Image], None]) -> list[tuple[int, str]]:
    """Calls `work` with each position and opened image; returns the positions that failed, with name and reason."""

    order = np.argsort(listing.rows, kind="stable")  # what lies together is read together

    def visit(start: int) -> list[tuple[int, str]]:
        failed: list[tuple[int, str]] = []
        positions = order[start : start + _CHUNK]
        files = listing.read(listing.rows[positions].tolist())
        for position, (name, file) in zip(positions.tolist(), files, strict=True):
            try:
                with _open(file) as image:
                    work(position, image)
            except _UNREADABLE as error:
                failed.append((position, f"{name} ({_reason(error)})"))
        return failed

    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
        return sorted(failure for each in pool.map(visit, range(0, len(listing), _CHUNK)) for failure in each)


def _read_headers(listing: Listing) -> NDArray[np.int64]:
    """Height, width, and whether it has colour, of each image: shape [N, 3]; zeros for those that can't be read."""
    headers = np.zeros((len(listing), 3), dtype=np.int64)

    def look(position: int, image: Image.Image) -> None:
        width, height = _upright_size(image)
        headers[position] = height, width, image.mode not in _GREY

    _visit(listing, look)
    return headers


def _open(file: File) -> Image.Image:
    if file is None:
        raise OSError("no image here")
    if isinstance(file, np.ndarray):
        return Image.fromarray(file)
    if isinstance(file, Image.Image):
        return file.copy()  # it is closed after use
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):  # its own text holds a memory address
        return "not an image that Pillow can read"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once EXIF orientation is applied, from the header alone."""
    width, height = image.size
    # without this look at `info`, `getexif` would decode a whole PNG in search of a late chunk
    turned = "exif" in image.info and read_orientation(image) >= 5
    return (height, width) if turned else (width, height)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in mode L or RGB, 8 bits a channel; transparency is dropped, as `Image.convert` does."""
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError("32-bit pixels that do not fit 16 bits")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # Pillow's own conversion clips at 255
    if image.mode in _FIRST:
        image = image.convert(_FIRST[image.mode])
    return image if image.mode == mode else image.convert(mode)


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image scaled until it just covers `size` (width, height), then cropped to its centre."""
    scaled, (left, top) = plan_cover(image.size, size)
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size[0], top + size[1]))


def plan_cover(image: tuple[int, int], size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """How `cover` does it: the size after scaling, and the left and top of what is kept. Width comes before height."""
    (width, height), (to_width, to_height) = image, size
    if width * to_height <= height * to_width:
        scaled = (to_width, to_width * height // width)
    else:
        scaled = (to_height * width // height, to_height)
    return scaled, (round((scaled[0] - to_width) / 2), round((scaled[1] - to_height) / 2))
