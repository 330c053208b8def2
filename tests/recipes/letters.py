"""Texts of domains whose words tell them apart."""

import random

WORDS = {
    "law": ["court", "statute", "plaintiff", "appeal", "verdict", "jury", "counsel", "decree", "tribunal", "clause"],
    "sea": ["harbour", "anchor", "schooner", "tide", "rudder", "mast", "gull", "reef", "keel", "lantern"],
    "kitchen": ["butter", "onion", "skillet", "simmer", "flour", "garlic", "oven", "pepper", "whisk", "broth"],
}


def text(domain: str, number: int) -> str:
    draw = random.Random(f"{domain} {number}")
    sentences = [" ".join(draw.choices(WORDS[domain], k=7)).capitalize() + "." for _ in range(14)]
    return " ".join(sentences)
