"""The canvas that image files are decoded to: all of one size, with the same channels, whatever the files have."""

from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from sslkit.contract.images import CHANNELS, Color, ImageSpec, Window

Fit = Literal["crop", "pad", "stretch"]

WINDOW = "set window = [low, high] in [data]; `sslkit data stats` suggests one"
BANDS = 'set color = "bands" in [data] to take its channels as they are'

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601, as PIL's mode L


class UnfitError(Exception):
    """An image does not match the data's options; ``fix`` says what to do about it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


class Canvas(NamedTuple):
    """What a file is decoded to.

    Attributes:
        height: rows, in pixels.
        width: columns, in pixels.
        color: what the channels are; None: bands, taken as the file has them.
        num_chs: channels.
        fit: what happens to an image of another shape: it fills the canvas and is cut on two sides (``crop``), is whole between margins at
            the lower end of the window (``pad``), or is distorted (``stretch``).
        window: the pixel values that become 0 and 1 later. Without one, pixels must be uint8.
    """

    height: int
    width: int
    color: Color | None
    num_chs: int
    fit: Fit = "crop"
    window: Window | None = None

    @classmethod
    def of(cls, image: ImageSpec, *, fit: Fit = "crop", window: Window | None = None) -> "Canvas":
        """The canvas of images as a dataset describes them."""
        return cls(image.height, image.width, image.color, image.num_chs, fit, window)

    @property
    def margin(self) -> int:
        """The value of margins, as an 8-bit number."""
        return 0 if self.window is None else round(min(max(self.window[0], 0), 255))

    def place(self, picture: Image.Image) -> Tensor:
        """Fit an 8-bit PIL image that already has the right channels: (C, height, width) uint8. Bilinear, antialiased."""
        size, filtering = (self.width, self.height), Image.Resampling.BILINEAR
        if picture.size != size and self.fit == "stretch":
            picture = picture.resize(size, filtering)
        elif picture.size != size and self.fit == "pad":
            picture = ImageOps.pad(picture, size, filtering, color=(self.margin,) * 3 if picture.mode == "RGB" else self.margin)
        elif picture.size != size:
            # This reads the central part alone: an image of 1,000,000 x 1 pixels takes no more memory than it has pixels.
            picture = ImageOps.fit(picture, size, filtering)
        return torch.from_numpy(np.array(picture)).reshape(self.height, self.width, -1).permute(2, 0, 1).contiguous()

    def place_values(self, values: np.ndarray) -> Tensor:
        """Fit an image of any type: (C, H, W) -> (num_chs, height, width) uint8, uint16 or float32. An image of the canvas's size keeps its
        values.

        Raises:
            UnfitError: its channels do not match, or its pixels are not uint8 and there is no window.
            ValueError: its pixels are not finite numbers.
        """
        if values.ndim != 3 or 0 in values.shape:
            raise ValueError(f"it is not an image of channels, rows and columns: its shape is {values.shape}")
        self.check(len(values), values.dtype.name)
        pixels = torch.from_numpy(self._typed(self._channels(values)))
        dtype, (height, width) = pixels.dtype, pixels.shape[1:]
        if (height, width) == (self.height, self.width):
            return pixels
        scales = self.height / height, self.width / width
        if self.fit == "crop":  # the central part with the shape of the canvas
            scale = max(scales)
            inner = min(height, max(1, round(self.height / scale))), min(width, max(1, round(self.width / scale)))
            top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
            pixels = pixels[:, top : top + inner[0], left : left + inner[1]]
        size = self.height, self.width
        if self.fit == "pad":
            scale = min(scales)
            size = min(size[0], max(1, round(height * scale))), min(size[1], max(1, round(width * scale)))
        resized = pixels.float()
        if tuple(resized.shape[1:]) != size:
            resized = F.interpolate(resized[None], size=size, mode="bilinear", antialias=True)[0]
        if size != (self.height, self.width):
            top, left = (self.height - size[0]) // 2, (self.width - size[1]) // 2
            around = (left, self.width - size[1] - left, top, self.height - size[0] - top)
            resized = F.pad(resized, around, value=self.window[0] if self.window else 0.0)
        if dtype == torch.float32:
            return resized.contiguous()
        return resized.round_().clamp_(0, torch.iinfo(dtype).max).to(dtype).contiguous()

    def check(self, num_chs: int, dtype: str) -> None:
        """Refuse channels and types as a file's header announces them, before its pixels are decoded, with an ``UnfitError``."""
        if self.color is None and num_chs != self.num_chs:
            fix = "state one value of mean and std for each band; all files have the same bands"
            raise UnfitError(f"it has {num_chs} channels, and the data says {self.num_chs} bands", fix)
        if self.color is not None and num_chs not in CHANNELS.values():
            raise UnfitError(f"it has {num_chs} channels, which are neither gray nor rgb", BANDS)
        if self.window is None and dtype != "uint8":
            raise UnfitError(f"its pixels are {dtype}, and no window says which values are black and white", WINDOW)

    def _channels(self, values: np.ndarray) -> np.ndarray:
        if len(values) == self.num_chs:
            return values
        if len(values) == 1:
            return np.repeat(values, self.num_chs, axis=0)
        luma = np.tensordot(_LUMA, values.astype(np.float32), axes=1)[None]
        return luma if values.dtype.kind == "f" else luma.round().astype(values.dtype)

    def _typed(self, values: np.ndarray) -> np.ndarray:
        """Contiguous uint8, uint16 or float32, of the machine's byte order."""
        if values.dtype.kind not in "biuf":
            raise ValueError(f"its pixels are not numbers but of the type {values.dtype}")
        dtype = np.dtype(values.dtype.newbyteorder("="))
        values = np.ascontiguousarray(values, dtype=dtype if dtype in (np.uint8, np.uint16) else np.float32)
        if values.dtype == np.float32 and not np.isfinite(values).all():
            raise ValueError("some of its pixels are not finite (NaN or infinity)")
        return values
