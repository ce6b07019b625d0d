"""Batched views: one random change of each image, on the images' device, from an explicit generator.

Every function takes (N, C, H, W) images, uint8 or float in [0, 1], and returns images of the same dtype. Every parameter but ``size``
and ``generator`` has torchvision's default; ``size`` is an int (square) or (height, width), and thresholds are in 0..255 whatever the dtype.
"""

from sslkit.views.color import color_jitter as color_jitter, grayscale as grayscale, solarize as solarize
from sslkit.views.crops import (
    center_crop as center_crop,
    horizontal_flip as horizontal_flip,
    multi_crop as multi_crop,
    random_resized_crop as random_resized_crop,
    resize as resize,
    vertical_flip as vertical_flip,
)
from sslkit.views.patches import gaussian_blur as gaussian_blur, random_erasing as random_erasing
from sslkit.views.view import View as View
