"""A deleted conversation is deleted for who did not see how, too.

Its history is gone, so who has the right to delete can't be found out from the log any more.
"""

from __future__ import annotations

from services.persistence.chat.domain.state import Phase
from tests.support.chat import GROUP, ChatSite


async def test_it_is_deleted_for_replicas_that_start_later_and_for_those_that_were_behind(chat: ChatSite) -> None:
    """Mutant: what follows a hole is folded as if nothing were missing."""
    first, behind = chat.replica(), chat.replica()
    await first.create("owner", "heir")
    await first.say("heir")
    assert (await behind.conversations.current(GROUP)).state.owner() == "owner"
    await first.did("", {"kind": "member", "op": "remove", "user": "owner"})  # the heir owns it from here on
    await first.did("heir", {"kind": "conversation", "op": "delete"})
    assert len(await chat.log()) == 1, "its history is gone"
    for replica in (behind, chat.replica()):  # `first` has died before it wrote anything in the background
        live = await replica.conversations.current(GROUP)
        assert live.state.phase is Phase.DELETED
        assert live.state.n == 1
        assert not live.state.members
