"""The digits of the scenes."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from odis.errors import DataError
from odis.objects.scenes.digits import split_digits


def test_train_and_val_share_no_digit_and_leave_none_out() -> None:
    (train, train_labels), (val, val_labels) = split_digits("train"), split_digits("val")
    digits = load_digits()
    seen = {image.tobytes() for image in train}
    assert not any(image.tobytes() in seen for image in val)
    assert len(train) + len(val) == len(digits.images)
    whole = sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in digits.images)
    assert sorted(image.tobytes() for image in (*train, *val)) == whole
    for label in range(10):
        n = (digits.target == label).sum()
        assert (train_labels == label).sum() == round(0.75 * n)
        assert (val_labels == label).sum() == n - round(0.75 * n)
    with pytest.raises(DataError, match="no split 'test'; there are train and val"):
        split_digits("test")
