"""Rules of conversations: events, rights and the fold, without any I/O.

`events` says what an event looks like, `rules` whether it applies, `fold` what it changes, `names` what the channel of
a conversation is called. No command uses them yet. See docs/chat.md and docs/decisions/0050.
"""
