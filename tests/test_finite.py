"""Numbers that are none never pass for an answer."""

import pytest
import torch

from d2st.errors import D2STError
from d2st.finite import check_finite, check_logits, check_weights

NAN, INF = float("nan"), float("inf")


def test_features_that_are_not_finite_name_their_clips():
    values = torch.zeros(3, 2, 4)
    check_finite(values, ["a", "b", "c"], "fp32")
    check_finite([values, torch.empty(3, 0)], ["a", "b", "c"], "fp32")
    values[1, 0, 2] = NAN
    with pytest.raises(D2STError, match="The features of clip 'b' are not finite in fp32: a weight of the backbone"):
        check_finite([torch.zeros(3, 1), values], ["a", "b", "c"], "fp32")
    values[2, 1, 1] = -INF
    with pytest.raises(D2STError, match=r"of 2 clips 'b', 'c' are not finite in fp16: .* choose fp32 or bf16"):
        check_finite(values, ["a", "b", "c"], "fp16")
    with pytest.raises(D2STError, match="of 9 clips '0', '1', '2' and 6 more clips"):
        check_finite(torch.full((9, 1), NAN), [str(i) for i in range(9)], "bf16")
    with pytest.raises(D2STError, match="of clip 'a' are"):  # two views of one clip
        check_finite(torch.full((2, 1), NAN), ["a", "a"], "bf16")


def test_logits_may_rule_a_class_out_but_not_be_nan():
    check_logits(torch.tensor([[0.0, -INF], [1.0, 2.0]]), ["a", "b"], "fp32")
    for wrong in ([0.0, NAN], [0.0, INF], [-INF, -INF]):
        with pytest.raises(D2STError, match="The logits of clip 'b' are not finite"):
            check_logits(torch.tensor([[0.0, 1.0], wrong]), lambda: ["a", "b"], "fp32")
    with pytest.raises(D2STError, match="clip 'd'"):
        check_logits(torch.tensor([[[0.0], [0.0]], [[0.0], [NAN]]]), ["a", "b", "c", "d"], "fp32")


def test_weights_that_are_not_finite_name_their_tensors():
    fine = {"a": torch.zeros(2), "steps": torch.tensor(3), "none": torch.empty(0)}
    check_weights(fine, "The weights", "copy them")
    with pytest.raises(D2STError, match="The weights hold numbers that are not finite, in 'b'; copy them"):
        check_weights(fine | {"b": torch.tensor([0.0, INF])}, "The weights", "copy them")
