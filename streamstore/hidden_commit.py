"""Finds the last commit where the number of its meta page was made less by two, so that LMDB would not see it.

A flipped bit does that. LMDB does it too, where the write of a meta page fails: it puts the number and the last page
back to what they were. Nobody was told that such a commit is stored, or that it is not. One that was hidden by damage
may be acknowledged. So it is taken wherever it is whole: where its pages are as many as its meta page says, which is
so unless the commit made the file longer and LMDB has put that back.

The other meta page is of the commit before it, so nothing has written over the pages of either.
"""

from collections.abc import Callable, Iterable

from streamstore.errors import StoreFormatError
from streamstore.free_pages import newest_commit_that_left, pages_left_by_commit
from streamstore.page_reader import PageReader
from streamstore.pages import META_PAGES, DamagedPageError, Meta, Tree

__all__ = ["hidden_commit"]


def hidden_commit(
    reader: PageReader, older: Meta, newer: Meta, trees_in: Callable[[Tree], Iterable[Tree]]
) -> int | None:
    """Return of which commit behind ``newer`` the meta page is that says to be ``older``; None: it is older.

    ``trees_in`` returns the databases that a list of them leads to.
    """
    number = older.commit_number + META_PAGES
    try:
        if newest_commit_that_left(reader, older.free) != number:
            return None
        if older.main.root in pages_left_by_commit(reader, newer).get(newer.commit_number, ()):
            return None  # so it is older, and the list that says otherwise is damaged
        free = pages_left_by_commit(reader, older)
        trees = [older.free, older.main, *trees_in(older.main)]
    except (DamagedPageError, StoreFormatError, ValueError):
        return None
    in_use = sum(tree.tree_pages + tree.value_pages for tree in trees)
    is_whole = META_PAGES + in_use + sum(map(len, free.values())) == older.last_page + 1
    return number if is_whole else None
