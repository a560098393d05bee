"""The methods on conversations: one table, from which all their faces are made.

Persistence executes them by name. The edge makes of the same table the `rpc` methods of clients, the calls of the
server API (`_` in place of the dot), the routes of signed-in users and OpenAPI.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from services.shared import chat_requests as r


class Act(enum.StrEnum):
    """What a method does, as scopes of API keys distinguish it."""

    READ = "read"
    WRITE = "write"  # messages, reactions, pins
    MANAGE = "manage"  # conversations and members
    OWN = "own"  # what is nobody else's: markers, preferences


class Rate(enum.StrEnum):
    """Which limit a method counts for."""

    MESSAGES = "messages"
    REACTIONS = "reactions"
    CONVERSATIONS = "conversations"
    INVITES = "invites"
    CHANGES = "changes"  # of conversations and their members
    SEARCHES = "searches"
    MARKERS = "markers"  # what a user has read, and that a user types


class Method(NamedTuple):
    """A method on conversations."""

    name: str
    request: type[r.ChatRequest]
    act: Act
    summary: str
    rate: Rate | None = None

    @property
    def writes(self) -> bool:
        """Whether it changes something, so that a key makes its repeats harmless."""
        return issubclass(self.request, r.Write)

    @property
    def call(self) -> str:
        """Its name in the server API."""
        return self.name.replace(".", "_")


_READ, _WRITE, _MANAGE, _OWN = Act.READ, Act.WRITE, Act.MANAGE, Act.OWN

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("conversations.create", r.ConversationsCreate, _MANAGE, "Create a conversation.", Rate.CONVERSATIONS),
        Method("conversations.get", r.OfChannel, _READ, "Return a conversation, and the caller's place in it."),
        Method("conversations.list", r.ConversationsList, _READ, "List the caller's conversations and invitations."),
        Method("conversations.directory", r.ConversationsDirectory, _READ, "List open conversations by name."),
        Method(
            "conversations.search",
            r.ConversationsSearch,
            _READ,
            "Find the caller's conversations, and open ones, by name.",
            Rate.SEARCHES,
        ),
        Method("conversations.update", r.ConversationsUpdate, _MANAGE, "Change the name or settings.", Rate.CHANGES),
        Method(
            "conversations.close", r.ChangeChannel, _MANAGE, "Close a conversation: it can only be read.", Rate.CHANGES
        ),
        Method("conversations.reopen", r.ChangeChannel, _MANAGE, "Open a closed conversation again.", Rate.CHANGES),
        Method(
            "conversations.delete",
            r.ChangeChannel,
            _MANAGE,
            "Delete a conversation with all its messages.",
            Rate.CHANGES,
        ),
        # Whoever may join may leave and join again, for ever: each is an event that all members get.
        Method("conversations.join", r.ChangeChannel, _MANAGE, "Join a group, or accept an invitation.", Rate.MESSAGES),
        Method("conversations.leave", r.ChangeChannel, _MANAGE, "Leave a conversation.", Rate.MESSAGES),
        Method("conversations.decline", r.ChangeChannel, _MANAGE, "Decline an invitation.", Rate.MESSAGES),
        Method("inbox.list", r.InboxList, _READ, "List the caller's conversations by last activity, or what changed."),
        Method("members.list", r.MembersList, _READ, "List the members of a conversation."),
        Method("members.add", r.MembersAdd, _MANAGE, "Add a user to a group.", Rate.INVITES),
        Method("members.invite", r.MembersInvite, _MANAGE, "Invite a user to a group.", Rate.INVITES),
        Method("members.remove", r.OfMember, _MANAGE, "Remove a member, or take an invitation back.", Rate.CHANGES),
        Method("members.role", r.MembersRole, _MANAGE, "Give a member another role.", Rate.CHANGES),
        Method(
            "members.silence",
            r.MembersUntil,
            _MANAGE,
            "Forbid a member to write; without `until`: no longer.",
            Rate.CHANGES,
        ),
        Method("members.ban", r.MembersUntil, _MANAGE, "Ban a user; without `until`: for good.", Rate.CHANGES),
        Method("members.unban", r.OfMember, _MANAGE, "Lift a ban.", Rate.CHANGES),
        Method("messages.send", r.MessagesSend, _WRITE, "Send a message.", Rate.MESSAGES),
        Method("messages.edit", r.MessagesEdit, _WRITE, "Replace the content of a message.", Rate.MESSAGES),
        Method("messages.delete", r.MessagesDelete, _WRITE, "Delete a message.", Rate.MESSAGES),
        Method("messages.purge", r.MessagesPurge, _MANAGE, "Delete all messages of a user.", Rate.CHANGES),
        Method("messages.get", r.MessageOnly, _READ, "Return a message."),
        Method("messages.list", r.MessagesList, _READ, "Return a page of messages, the newest last."),
        Method("messages.between", r.MessagesBetween, _READ, "Return a page of messages between two users."),
        Method(
            "messages.search", r.MessagesSearch, _READ, "Find messages in the caller's conversations.", Rate.SEARCHES
        ),
        Method("messages.thread", r.MessagesThread, _READ, "Return a page of the messages in a thread."),
        Method("messages.versions", r.MessageOnly, _READ, "Return the versions of a message, the oldest first."),
        Method("reactions.add", r.ReactionsChange, _WRITE, "React to a message.", Rate.REACTIONS),
        Method("reactions.remove", r.ReactionsChange, _WRITE, "Take a reaction back.", Rate.REACTIONS),
        Method("reactions.list", r.ReactionsList, _READ, "Return who reacted to a message."),
        Method("pins.add", r.OfMessage, _WRITE, "Pin a message.", Rate.REACTIONS),
        Method("pins.remove", r.OfMessage, _WRITE, "Take a pin off.", Rate.REACTIONS),
        Method("pins.list", r.OfChannel, _READ, "Return the pinned messages."),
        Method("markers.get", r.OfChannel, _READ, "Return how far the caller has read, and what is unread."),
        Method("typing.start", r.OfChannel, _OWN, "Tell the others that the caller types.", Rate.MARKERS),
        Method("typing.stop", r.OfChannel, _OWN, "Tell the others that the caller types no more.", Rate.MARKERS),
        Method("devices.set", r.DevicesSet, _MANAGE, "Have notifications sent to a device.", Rate.MESSAGES),
        Method("devices.remove", r.OfDevice, _MANAGE, "Remove a device: it gets no notifications any more."),
        Method("devices.list", r.DevicesList, _READ, "List the caller's devices."),
        Method("markers.read", r.MarkersMove, _OWN, "Mark all up to an offset as read.", Rate.MARKERS),
        Method("markers.unread", r.MarkersMove, _OWN, "Mark an offset and all above as unread.", Rate.MARKERS),
        Method(
            "markers.delivered", r.MarkersDelivered, _OWN, "Say that a device has all up to an offset.", Rate.MARKERS
        ),
        Method("receipts.list", r.ReceiptsList, _READ, "Return which other members have read, and got, a message."),
        # Unlike a marker, a preference is in the store before the answer.
        Method(
            "conversations.preferences",
            r.ConversationsPreferences,
            _OWN,
            "Mute, archive; return the preferences.",
            Rate.CHANGES,
        ),
        Method(
            "me.preferences", r.MePreferences, _OWN, "Return or set what the caller wants everywhere.", Rate.CHANGES
        ),
        Method("me.export", r.MeExport, _READ, "Return what the caller wrote, in all conversations."),
        Method("me.erase", r.MeErase, _MANAGE, "Delete what the caller wrote, in all conversations.", Rate.CHANGES),
    )
}
