"""The scanned digits of scikit-learn, a small real data set that needs no download."""

import torch
from torch.nn.functional import interpolate

from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import DATASETS, Dataset, Request, Split, stratified

TEST_IMAGES = 360
VALIDATION_IMAGES = 137  # leaves 1,300 of the 1,797 for training


@DATASETS.register(
    "digits",
    description="1,797 scanned digits of scikit-learn, 8x8 enlarged to 32x32, gray, 10 classes; needs no download",
    reference="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998",
)
def digits(request: Request) -> Dataset:
    """1,300 training, at most 137 validation and 360 test images, uint8 (n, 1, 32, 32)."""
    from sklearn.datasets import load_digits

    request.refuse_image_size()
    scans, targets = load_digits(return_X_y=True)
    small = torch.as_tensor(scans, dtype=torch.float32).reshape(-1, 1, 8, 8)
    # Enlarging whole numbers four times needs only dyadic weights, so the result is exact on every machine.
    large = interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    whole = Split((large * 255 / 16).round().to(torch.uint8), torch.as_tensor(targets, dtype=torch.int64))
    test, others = stratified(whole.labels, TEST_IMAGES, seed_of("digits", "test"))
    return request.assemble(
        whole.pick(others) if request.train else None,
        whole.pick(test),
        [str(digit) for digit in range(10)],
        augmentation="crop",  # a mirrored digit is not a digit
        largest_validation=VALIDATION_IMAGES,
    )
