"""A model of the hub is fetched once and is there offline afterwards: proven against a hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

from collegium.testing.pico import pico_base


def test_a_hub_model_is_fetched_once_and_loaded_offline_afterwards(tmp_path):
    base = pico_base()
    base.model.save_pretrained(tmp_path / "pico")
    base.tokenizer.save_pretrained(tmp_path / "pico")
    surroundings = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_HOME": str(tmp_path / "hub"),
        "COLLEGIUM_CACHE": str(tmp_path / "cache"),
        "TRANSFORMERS_OFFLINE": "0",
    }
    script = Path(__file__).with_name("serve_hub.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "pico")],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {
        "said": ["fetching owner/pico at v1.0 from the hub"],
        "source": "hf:owner/pico@v1.0 (Hugging Face hub)",
        "equal": True,
    }
