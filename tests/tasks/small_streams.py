"""Settings of streams that take seconds on a toy."""

from collegium.tasks.continual import ContinualConfig

QUICK = ContinualConfig(
    train_rows=40, dev_rows=8, test_rows=12, text_tokens=56, memory=4, rank=4, layers="top:1", passes=1.0, batch=8,
    rates=(3e-3,), router_steps=6, template=" :", threads=1,
)  # fmt: skip
