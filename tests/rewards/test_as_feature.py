"""A reward model of any design is a `Feature`."""

import pytest

from collegium.rewards import DESIGNS
from collegium.testing.feature import check_feature


@pytest.mark.parametrize("design", DESIGNS)
def test_a_reward_model_keeps_the_contract_of_features(design, model, samples):
    check_feature(model(design), samples=samples[:7])
