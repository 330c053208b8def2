"""Held-out text that has nothing to do with a target, by which is seen what a policy forgot."""

from pathlib import Path

from collegium.core.cache import cache_folder
from collegium.core.errors import ResourceError
from collegium.core.protocols import Tokenizer
from collegium.data import read_domains
from collegium.data.demo import pull
from collegium.infer import HeldOut
from collegium.recipes.held_out import windows_of
from collegium.recipes.watch import Watch

WINDOWS, WINDOW, CONTEXT = 16, 128, 1


def general_text(
    data: Path | None, tokenizer: Tokenizer | None, *, watch: Watch, windows: int = WINDOWS
) -> HeldOut | None:
    """Return so many windows of 128 tokens of each domain of a folder, from its held-out documents.

    data: None = the four demo domains.

    None, having said so, where the demo texts can be neither found nor fetched.
    """
    try:
        folder = pull(cache_folder() / "demo-texts", progress=watch.say) if data is None else data
    except ResourceError as error:
        watch.say(f"general perplexity is not measured: {error} Give texts of your own: --general DATA")
        return None
    documents = {domain.name: domain.split().test for domain in read_domains(folder)}
    return windows_of(documents, tokenizer, window=WINDOW, context=CONTEXT, budget_tokens=windows * WINDOW)
