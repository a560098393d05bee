"""Settings of the edge's domain, with their defaults and ranges.

`services/edge/config.py` reads them from the environment. What is `fixed` is the same on every edge; tests change it.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.checks import MAX_CHANNEL_BYTES
from services.shared.process.config import fixed, number
from services.shared.version import VERSION

MAX_RESUME_S = 120.0  # longest `resume_s`: revocations and the session table are kept for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits, intervals and switches of one edge.

    Names end in their unit. Defaults are those of wire protocol, 17, unless a comment says otherwise.
    """

    insecure: bool = False
    allow_anonymous: bool = False  # connect without a token
    disallow_anonymous_tokens: bool = False  # a token without `sub` ends the connection
    personal_channel: bool = False
    personal_channel_namespace: str = ""
    server_name: str = fixed("thalamus")
    version: str = fixed(VERSION)

    connect_timeout_s: float = number(10.0, 0.01)
    ping_interval_s: float = number(25.0, 0)  # 0: no pings
    pong_timeout_s: float = number(8.0, 0)  # 0: no pong expected
    expired_close_delay_s: float = number(25.0, 0)  # from the expiry of a connection to its close
    expired_sub_close_delay_s: float = number(25.0, 0)  # from the expiry of a subscription to its end
    resume_s: float = number(120.0, 0, MAX_RESUME_S)  # after an expiry, and after a loss; 0: nobody resumes
    error_drop_delay_s: float = fixed(5.0)  # from an error reply to connect until TCP is dropped

    online: bool = True  # presence keeps who is online, since when and when last
    online_read: bool = True  # signed-in users may ask who is online; backends may in any case
    connection_events: bool = False  # the feed tells of connections of users

    commands_per_s: float = number(50.0, 0)  # 0: no limit
    commands_burst: int = number(300, 1)
    flood_close_s: float = fixed(3.0)  # a client whose commands are refused for so long without a pause is closed
    max_pending_commands: int = fixed(64)  # of one client, publications apart; beyond, its socket is not read

    channels_per_client: int = number(128, 1)
    new_channels_per_minute: int = number(200, 0)  # that a user may begin on this edge; beyond: error 111; 0: no limit
    api_calls_per_key_per_s: float = number(0.0, 0)  # calls of one API key, over all edges; beyond: 429; 0: no limit
    api_calls_per_key_burst: int = number(100, 1)  # of these at once
    publishes_per_user_per_s: float = number(0.0, 0)  # of clients, over all edges; beyond: error 111; 0: no limit
    messages_per_user_per_s: float = number(10.0, 0)  # to conversations, over all edges; 0: no limit
    messages_per_user_burst: int = number(30, 1)  # of these at once
    reactions_per_user_per_s: float = number(20.0, 0)  # reactions and pins, the same
    conversations_per_user_per_h: int = number(20, 0)  # that a user creates in an hour, the same
    changes_per_user_per_s: float = number(5.0, 0)  # of conversations and their members, the same
    changes_per_user_burst: int = number(50, 1)  # of these at once
    markers_per_user_per_s: float = number(20.0, 0)  # calls that say what is read, and who types, the same
    markers_per_user_burst: int = number(100, 1)  # of these at once
    searches_per_user_per_s: float = number(5.0, 0)  # for messages and conversations, the same
    searches_per_user_burst: int = number(20, 1)  # of these at once
    invites_per_user_per_h: int = number(100, 0)  # users whom a user adds or invites in an hour, the same
    connections_per_user: int = number(100, 0)  # over all edges; beyond: closed; 0: no limit
    connections_per_address: int = number(0, 0)  # the same of an address; beyond: error 111; 0: no limit
    channel_max_bytes: int = number(255, 1, MAX_CHANNEL_BYTES)  # of a channel name in UTF-8
    max_publish_wait_s: float = number(1.0, 0.01, 60)  # longest expected wait of an accepted publication; beyond: 111
    max_pending_publish_bytes: int = number(33_554_432, 1, 1 << 50)  # of all publications that wait on this edge
    history_limit: int = number(300, 1)  # publications of one history reply
    recovery_total: int = number(100_000, 1)  # publications that a client may have missed; beyond: not recovered
    idempotency_key_max_bytes: int = fixed(128)  # in UTF-8

    # Reads of logs at the same time (gaps, recovery, history), for `hot` and `stored` channels each: a read has 2.5 s,
    # and one that waits here costs Redis and persistence nothing.
    max_reads: int = fixed(64)
    max_waiting_reads: int = fixed(5_000)  # reads under way and waiting together; beyond: error 111, and clients retry
    # Publications of a subscribe reply, and of one page behind it. Upstream has 300; what is beyond follows as pushes.
    recovery_limit: int = fixed(1_000)
    reply_max_bytes: int = fixed(1_048_576)  # of the publications in one reply; a client goes on with the next page

    ring_size: int = fixed(256)  # publications that an edge keeps per channel, to recover from without a read
    ring_max_bytes: int = fixed(262_144)  # the same in bytes
    gap_buffer_size: int = fixed(1_024)  # publications kept behind a gap while it is repaired
    join_buffer_size: int = fixed(4_096)  # frames held for a subscription until its reply is queued
    refusal_step_s: float = fixed(0.02)  # a conversation's 103 comes at a multiple of it, whether or not there is one
    top_check_s: float = fixed(5.0)  # interval of comparing quiet channels with their logs; bounds an unnoticed loss
    channel_linger_s: float = fixed(1.0)  # how long a channel without subscribers stays open


MAX_TTL_S = 365 * 86_400  # largest `ttl` told to a client (wire protocol, 9)
