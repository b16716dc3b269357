"""A search as one HTML page: the query, and its answers with pictures, ids, captions and scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedstore.recipes.page.render import render_page

if TYPE_CHECKING:
    from embedstore.recipes.search import SearchResult


def search_page(found: SearchResult) -> str:
    """The page as one HTML text; `MissingExtraError` without the extra `demo`."""
    how = "stored joint embeddings" if found.applied else "cached tokens through the head"
    searched = f"{found.searched:,} {found.table} compared, exactly, by cosine: {how} ({found.feature})."
    if found.left_out:
        searched += f" {found.left_out:,} more could not be read when they were encoded."
    return render_page(
        "search.html.j2",
        title=f"Search: {found.query}",
        found=found,
        searched=searched,
    )
