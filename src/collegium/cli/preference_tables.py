"""What `data describe` shows of preference pairs."""

from collegium.cli.console import Screen
from collegium.data import PreferenceDescription, PreferenceDomain

LEAKS_SHOWN = 10

_COUNTS = (
    "domain",
    "kind",
    "pairs",
    "prompts",
    "train / dev / test",
    "copies",
    "unusable",
    "both ways",
    "leaks",
    "shared answers",
)
_LENGTHS = (
    "domain",
    "chosen longer",
    "length alone",
    "length-matched",
    "characters chosen / rejected",
    "longest tokens",
    "over context",
)


def show_preferences(found: PreferenceDescription, screen: Screen) -> None:
    """Show a description of pairs: two tables, then what needs a word."""
    screen.table(_COUNTS, [_counts(each) for each in found.domains])
    screen.table(_LENGTHS, [_lengths(each) for each in found.domains])
    for domain in found.domains:
        for remark in _remarks(domain):
            screen.say(remark)
        for source in domain.sources:
            screen.say(f"{domain.name} comes from {source.name}, licence: {source.licence}")
    for leak in found.leaks[:LEAKS_SHOWN]:
        screen.say(
            f"leak: {leak.origins[1]} (test of {leak.domains[1]}) asks {100 * leak.similarity:.0f} % the same as "
            f"{leak.origins[0]} (train or dev of {leak.domains[0]})"
        )
    if len(found.leaks) > LEAKS_SHOWN:
        screen.say(f"... and {len(found.leaks) - LEAKS_SHOWN:,} more leaks (--json has all)")


def _counts(domain: PreferenceDomain) -> tuple[object, ...]:
    return (
        domain.name,
        domain.kind or None,
        domain.pairs,
        domain.prompts,
        "too few" if domain.split is None else " / ".join(f"{count:,}" for count in domain.split.values()),
        domain.duplicates,
        domain.unusable,
        domain.contradictions,
        domain.leaks,
        domain.shared_answers,
    )


def _lengths(domain: PreferenceDomain) -> tuple[object, ...]:
    lengths, tokens = domain.lengths, domain.tokens
    return (
        domain.name,
        _percent(lengths.chosen_longer),
        f"{lengths.rule} {_percent(lengths.rule_accuracy)}",
        _percent(lengths.matched),
        f"{lengths.chosen:,.0f} / {lengths.rejected:,.0f}",
        None if tokens is None else tokens.longest,
        None if tokens is None or tokens.over_context is None else _percent(tokens.over_context),
    )


def _remarks(domain: PreferenceDomain) -> list[str]:
    found = []
    if domain.unusable:
        found.append(
            f"{domain.name}: {domain.unusable:,} unusable, with equal answers, an empty text, or a label that another "
            "row denies: an error where they are learned from, unless --drop-unusable leaves them out there, too"
        )
    if domain.alone:
        found.append(
            f"{domain.name}: {domain.alone:,} answers left out, their prompt has none with another label or rating"
        )
    if domain.surplus:
        found.append(f"{domain.name}: {domain.surplus:,} more pairs could be made, but at most eight a prompt are")
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
