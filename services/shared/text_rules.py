"""Which texts may be usernames and addresses of pictures, for edges and auth.

An edge refuses early and describes the rule in OpenAPI; auth decides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextRule:
    """Which texts are allowed, for machines and for people.

    `pattern`: a regular expression of the whole text, which JSON schemas take too. It ends in `$(?!\\n)`: `$` alone
    also matches before a line end at the end, and JSON schemas have no `\\Z`. `words`: the same for people.
    """

    pattern: str
    words: str

    def allows(self, text: str) -> bool:
        """Whether a text is allowed."""
        return re.search(self.pattern, text) is not None


USERNAME = TextRule(r"^[a-zA-Z0-9._-]{3,64}$(?!\n)", "3 to 64 of letters, digits, dot, underscore and hyphen")
AVATAR_URL_BYTES = 2_048
_PORT = "6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}"
# Visible ASCII without quotes, angle brackets and backslashes, which pages may put into markup: other characters are
# percent-encoded, hosts in their xn-- form. No user name. An empty text: no picture.
AVATAR_URL = TextRule(
    rf"^(https://[A-Za-z0-9][A-Za-z0-9.-]*(:({_PORT}))?([/?#][!#-&(-;=?-\[\]-_a-~]*)?)?$(?!\n)",
    f"an https address of at most {AVATAR_URL_BYTES:,} bytes, without a user name, quotes, angle brackets and"
    " backslashes",
)
