"""What all parts of one composed request have in common, and how each of them is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

from passerelle.compose.composition import Gathering
from passerelle.compose.part import PartCall
from passerelle.compose.plans import PartPlan
from passerelle.http1.head import RequestHead
from passerelle.proxy_cache.cache import part_facts, path_tag
from passerelle.proxy_cache.request import Wanted
from passerelle.upstream.request import Forward


class Asking:
    """Asks for the ``parts`` of one request. ``fields`` are the lines that all of them get; ``address`` gives the
    client's, ``place`` where it has asked as cache keys name it; ``cached`` tells whether the caches may answer."""

    __slots__ = (
        "_address",
        "_cached",
        "_consumer",
        "_fields",
        "_head",
        "_place",
        "_renews",
        "_rest",
        "params",
        "parts",
    )

    def __init__(
        self,
        parts: Sequence[PartPlan],
        params: Mapping[str, bytes],
        head: RequestHead,
        fields: bytes,
        request_id: bytes,
        consumer: bytes,
        address: Callable[[], bytes],
        place: Callable[[], bytes],
        cached: bool,
    ) -> None:
        self.parts = parts
        self.params = params
        self._head = head
        self._fields = fields
        self._rest = b" HTTP/1.1\r\n%bX-Request-Id: %b\r\n\r\n" % (fields, request_id)
        self._consumer = consumer
        self._address = address
        self._place = place
        self._cached = cached
        self._renews = False

    def renewing(self) -> Asking:
        """Asks for the same parts, and takes no stale answer for one."""
        asking = copy(self)
        asking._renews = True
        return asking

    def ask(self, index: int, gathering: Gathering, started: float) -> PartCall:
        """Part number ``index``, ready to start; ``started`` is when the whole was asked for (of ``perf_counter``)."""
        part = self.parts[index]
        params = self.params
        path = part.path.fill(params)
        message = b"GET " + path + self._rest
        key = part.service.key
        node_key = key(self._head, params, self._address()) if key is not None else None
        wanted = None
        if part.cache is not None and self._cached:
            facts = part_facts(self._head, self._fields, self._consumer)
            kept = part.key
            if part.cache.settings.key.hosts is None:
                kept = b"%b#%b" % (kept, self._place())  # services are told of it, whoever else asks for the part
            asks = (part, part.cache, facts, b"%b %b" % (kept, path), message, params, started)
            wanted = Wanted(*asks, node_key=node_key, about=(path_tag(part.service.name, path),), renews=self._renews)
        asked = PartCall(gathering, index, part, message, started, wanted)
        if key is not None and isinstance(asked.forward, Forward):
            asked.forward.key = node_key
            asked.sticky = part.service.cookie
        return asked

    def paths(self) -> tuple[bytes, ...]:
        """The tags of the paths at services that the whole is made of."""
        return tuple(path_tag(part.service.name, part.path.fill(self.params)) for part in self.parts)
