"""The table of experiments that the ledger's rows name."""

from collections.abc import Mapping

from collegium.claims.averaging import PICO_AVERAGES
from collegium.claims.experiment import Experiment
from collegium.claims.toy import TOY_BIGRAMS

EXPERIMENTS: Mapping[str, Experiment] = {
    "toy_bigrams": TOY_BIGRAMS,
    "pico_averages": PICO_AVERAGES,
}
