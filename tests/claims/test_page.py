"""docs/claims.md is what ledger and results say."""

from pathlib import Path

from collegium.claims import current_page

PAGE = Path(__file__).parents[2] / "docs" / "claims.md"


def test_the_page_is_up_to_date():
    assert PAGE.read_text() == current_page(), (
        "write it anew: python -c 'from collegium.claims import current_page; "
        'open("docs/claims.md", "w").write(current_page())\''
    )
