"""All hooks of an edge, found by what they are for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from services.edge.domain.hooks.hook import Hook
from services.edge.domain.hooks.model import Event
from services.edge.domain.hooks.options import BUILT_IN
from services.shared.namespaces import Namespace, Namespaces

_ANY = "*"  # at the end of a method: every name that begins so


class Hooks:
    """The hooks by event, and by namespace or method."""

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self._all = tuple(hooks)
        self.connect = self._only(Event.CONNECT)
        self.refresh = self._only(Event.REFRESH)
        self.subscribe = self._by_namespace(Event.SUBSCRIBE)
        self.publish = self._by_namespace(Event.PUBLISH)
        methods = {method: hook for hook in self._all for method in hook.options.methods}
        self._methods = {name: hook for name, hook in methods.items() if not name.endswith(_ANY)}
        beginnings = {name.removesuffix(_ANY): hook for name, hook in methods.items() if name.endswith(_ANY)}
        self._beginnings = dict(sorted(beginnings.items(), key=lambda one: -len(one[0])))

    @property
    def has_methods(self) -> bool:
        """Whether a hook is asked about any rpc."""
        return bool(self._methods or self._beginnings)

    @property
    def may_sign_in(self) -> bool:
        """Whether a client without a token may get a user from a hook."""
        return self.connect is not None and self.connect.options.sign_in

    def method(self, name: str) -> Hook | None:
        """Return the hook of a method: that of its name, else of the longest beginning.

        The server's own methods have none.
        """
        if name.startswith(BUILT_IN):
            return None
        hook = self._methods.get(name)
        if hook is not None:
            return hook
        return next((hook for beginning, hook in self._beginnings.items() if name.startswith(beginning)), None)

    def mark(self, namespaces: Namespaces) -> Namespaces:
        """Return the namespaces, with a mark on those whose publications a hook sees.

        So a publication in any other costs no more than a look at the mark.
        """

        def marked(namespace: Namespace) -> Namespace:
            return dataclasses.replace(namespace, publish_hook=namespace.name in self.publish)

        default = namespaces.default
        return Namespaces(
            None if default is None else marked(default),
            {name: marked(namespace) for name, namespace in namespaces.named.items()},
        )

    async def close(self) -> None:
        """Close the connections to all backends."""
        for hook in self._all:
            await hook.close()

    def _only(self, event: Event) -> Hook | None:
        return next((hook for hook in self._all if hook.options.has(event)), None)

    def _by_namespace(self, event: Event) -> dict[str, Hook]:
        return {name: hook for hook in self._all if hook.options.has(event) for name in hook.options.namespaces}
