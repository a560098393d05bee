"""Asks persistence what a client may do in a conversation.

When it must be asked, and what an answer is good for, says `session/membership.py`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from services.edge.domain.chat.ports import Access
from services.edge.domain.chat.refusal_time import wait_s
from services.shared.errors import ErrorCode, ThalamusError

if TYPE_CHECKING:
    from services.edge.domain.session.session import Session


async def ask(session: Session, channel: str) -> Access:
    """Return what the client may do in a conversation, which is at least to read it.

    Raises:
        ThalamusError: 103 if it may not; 100 if persistence can't say.
    """
    if not session.user:
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
    loop = asyncio.get_running_loop()
    began = loop.time()
    access = await session.node.chat.check(channel, session.user)
    if not access.reads:
        await asyncio.sleep(wait_s(session.node.settings.refusal_step_s, loop.time() - began))
        raise ThalamusError(code=ErrorCode.PERMISSION_DENIED)
    return access
