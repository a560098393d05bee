"""When a client is told that it may not know of a conversation.

To look up a conversation that exists takes another time than to find that there is none: what is in memory, in Redis or
in the store differs. Who measures that would learn whether two users talk, because the name of a direct conversation
follows from their ids. So a refusal is given at the next multiple of a step (`Settings.refusal_step_s`) after the
command. What takes less than a step takes the same. Who is not refused does not wait. It is the same with a user whom
the platform does not know: nobody is to learn by the time who has registered.
"""

from __future__ import annotations

import math


def wait_s(step_s: float, took_s: float) -> float:
    """Return how long a refusal that took so long must wait, seconds."""
    if step_s <= 0:
        return 0.0
    return max(1, math.ceil(took_s / step_s)) * step_s - took_s
