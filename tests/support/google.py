"""Google as the notifier knows it: FCM, and the server of access tokens."""

from __future__ import annotations

import json
from urllib.parse import parse_qs

from tests.support.http_server import Asked
from tests.support.push_server import PushServer, Reply


class Google:
    """FCM and the server of access tokens.

    `reply` is what FCM answers; `instead`: what the server of tokens answers, None: a token.
    """

    def __init__(self, server: PushServer) -> None:
        self.server, self.reply = server, Reply(200, body=b'{"name":"projects/the-project/messages/1"}')
        self.instead: Reply | None = None
        self.tokens: list[str] = []
        self.assertions: list[str] = []
        server.answer = self._answer

    def _answer(self, asked: Asked) -> Reply:
        if asked.path == "/token":
            self.assertions.append(parse_qs(asked.body.decode())["assertion"][0])
            if self.instead is not None:
                return self.instead
            self.tokens.append(f"token-{len(self.tokens)}")
            body = json.dumps({"access_token": self.tokens[-1], "expires_in": 3_600, "token_type": "Bearer"})
            return Reply(200, {"content-type": "application/json"}, body.encode())
        return self.reply

    @property
    def sent(self) -> list[Asked]:
        return [one for one in self.server.asked if one.path != "/token"]
