"""Orders certificates for the listener (``tls.auto``), renews them in good time, and shares them with other gateways.

The certificates in the folder are those that workers serve. With Redis, that has them as well: the gateway with the
lease orders, and the others fetch what has changed. Without the store there is no order, so that none is made twice.

Before each order, the time of the next one is stored, as if it had failed: a crash repeats no order at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from passerelle.acme.challenge import Pending
from passerelle.acme.failure import OrderFailed
from passerelle.acme.ordered_name import OrderedName
from passerelle.acme.schedule import Attempt, pause
from passerelle.acme.settings import Authority
from passerelle.acme.store import CertificateStore, FolderStore, Kept, News, StoreUnavailable
from passerelle.acme.thread import in_thread
from passerelle.config.models.automatic_tls import AutomaticTls
from passerelle.config.models.config import Config
from passerelle.observability.events import EventLog
from passerelle.supervisor.errors import ChangeRefused

INTERVAL: Final = 2.0
"""Seconds between checks of the store and of the times of renewals."""
LOCK_INTERVAL: Final = 15.0
"""Seconds after which the right to order is renewed, during an order."""
PUBLISH_LIMIT: Final = 15.0
"""Seconds for all workers and gateways to respond to a challenge."""


class CertificateOrders:
    """The certificates of a gateway that are ordered.

    ``send`` has the workers respond to challenges, and returns the names of those that did not confirm it. ``wall`` is
    the time since 1970 in seconds.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        events: EventLog,
        log: Callable[[str], None],
        send: Callable[[Sequence[Pending]], Awaitable[list[str]]],
        *,
        wall: Callable[[], float] = time.time,
        rng: random.Random | None = None,
        interval: float = INTERVAL,
    ) -> None:
        self._config = config
        self._events = events
        self._log = log
        self._send = send
        self._wall = wall
        self._rng = rng or random.Random()
        self._interval = interval
        self._wake = asyncio.Event()
        self._settings: tuple[Any, ...] | None = None
        self._folder: FolderStore | None = None
        self._store: CertificateStore | None = None
        self._names: dict[str, OrderedName] = {}
        self._requested: set[str] = set()  # names whose orders were requested, whatever the times are
        self._unwritten: dict[str, Kept] = {}  # certificates that the folder could not take yet
        self._loaded = False
        self._published = ""  # the challenges of other gateways that the workers respond to
        self._hold_until = 0.0  # no order is made until then:
        self._refused = False  # the authority refuses all orders; otherwise, it cannot be reached
        self._problem = ""  # the last one that was logged

    async def run(self) -> None:
        """Order and renew, until cancelled."""
        while True:
            try:
                await self.turn()
            except Exception as defect:
                # The gateway serves on, and clients see it only when a certificate expires.
                text = f"{type(defect).__name__}: {defect}"
                if text != self._problem:
                    self._problem = text
                    self._log(f"tls.auto: {text}")
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._interval)

    async def close(self) -> None:
        """Give up the right to order, and disconnect."""
        store, self._store, self._settings = self._store, None, None
        if store is not None:
            await store.close()

    async def turn(self) -> None:
        """Fetch what other gateways have ordered, and make the orders that are due."""
        try:
            await self._reconfigure()
            if self._store is None:
                return
            await self._fetch(self._store)
            await self._order_due(self._store)
        except StoreUnavailable as unavailable:
            if str(unavailable) != self._problem:
                self._problem = str(unavailable)
                self._log(f"tls.auto: {unavailable}; no certificate is ordered")
                self._events.record("store", f"tls.auto: {unavailable}")
        else:
            if self._problem:
                self._problem = ""
                self._log("tls.auto: the certificates are available again")
                self._events.record("store", "tls.auto: the certificates are available again")

    def report(self) -> list[dict[str, Any]]:
        """Return each name with its certificate as JSON values, times in seconds since 1970."""
        found = []
        for each in self._names.values():
            certificate, attempt = each.certificate, each.kept.attempt
            due = max(each.renew_at, attempt.next_at, self._hold_until)
            found.append(
                {
                    "name": each.name,
                    "issuer": certificate.issuer if certificate is not None else None,
                    "not_after": certificate.end if certificate is not None else None,
                    "next_order": due if due > self._wall() else None,
                    "failures": attempt.failures,
                    "error": attempt.error or None,
                }
            )
        return found

    def change(self, arguments: Mapping[str, str]) -> str:
        """Order a new certificate, as the ``arguments`` of the admin port state; return what happens.

        :raises ChangeRefused: if they are wrong, or the authority refuses orders.
        """
        name = arguments.get("name")
        if set(arguments) != {"name"} or name is None:
            raise ChangeRefused("an order needs name=NAME")
        names = self._config().ordered_names
        if not names:
            raise ChangeRefused("no certificates are ordered: the file has no tls.auto")
        if name not in names:
            raise ChangeRefused(f"no certificate is ordered for {name!r}; the names are {', '.join(names)}")
        now = self._wall()
        if now < self._hold_until:
            if self._refused:
                raise ChangeRefused(f"the authority refuses all orders for another {self._hold_until - now:.0f} s")
            self._hold_until = 0.0  # it could not be reached
        self._requested.add(name)
        self._wake.set()
        return f"a new certificate is ordered for {name}"

    # ---- parts

    async def _reconfigure(self) -> None:
        """Follow a reload: open the store, and take up names that are new."""
        config = self._config()
        auto = config.tls.auto if config.tls is not None else None
        redis = config.redis.url if config.redis is not None else None
        settings = (config.certificates_folder, redis, config.cache.namespace) if auto is not None else None
        if settings != self._settings:
            await self.close()
            self._settings, self._names, self._published, self._folder = settings, {}, "", None
            self._hold_until = 0.0
            self._requested.clear()
            self._unwritten.clear()
        if settings is None:
            return
        if self._folder is None:
            self._folder = FolderStore(config.certificates_folder)
        if self._store is None:
            self._store = self._folder
            if redis is not None:
                # Imported here: the client of Redis is an optional dependency.
                from passerelle.acme.redis_store import RedisStore

                self._store = RedisStore(redis, config.cache.namespace)
        if tuple(self._names) != config.ordered_names:
            kept = await self._folder.load(config.ordered_names)
            self._names = {
                name: self._names.get(name) or OrderedName(name, kept[name]) for name in config.ordered_names
            }
            self._loaded = False

    async def _fetch(self, store: CertificateStore) -> None:
        """Take over what other gateways have ordered, and respond to their challenges."""
        await self._write_again()
        news = await store.poll(self._published)
        if news.changed or not self._loaded:
            for name, kept in (await store.load(self._names)).items():
                await self._adopt(store, self._names[name], kept)
            self._loaded = True
        if store is not self._folder and news.published != self._published:
            await self._respond(news)

    async def _respond(self, news: News) -> None:
        silent = await self._send(news.challenges)
        if not silent:
            self._published = news.published

    async def _adopt(self, store: CertificateStore, each: OrderedName, kept: Kept) -> None:
        """Use ``kept`` of the store, unless the certificate in use is newer: then the store gets that."""
        before = each.kept
        if kept == before:
            return
        mine = each.certificate
        each.adopt(kept)
        if kept.bundle == before.bundle:
            return
        if mine is not None and (each.certificate is None or each.certificate.start < mine.start):
            each.adopt(before)
            if store is not self._folder and before.bundle is not None:
                await store.keep_certificate(each.name, before.bundle, before.attempt)
        elif each.certificate is not None and store is not self._folder:
            await self._write(each.name, kept)

    async def _write(self, name: str, kept: Kept) -> None:
        """Write the copy that the workers read. On failure, it is written again later."""
        if self._folder is None or kept.bundle is None:
            return
        try:
            await self._folder.keep_certificate(name, kept.bundle, kept.attempt)
        except StoreUnavailable as unavailable:
            if name not in self._unwritten:
                self._log(f"tls.auto: the certificate of {name} cannot be written yet: {unavailable}")
            self._unwritten[name] = kept
        else:
            self._unwritten.pop(name, None)

    async def _write_again(self) -> None:
        for name, kept in list(self._unwritten.items()):
            await self._write(name, kept)

    async def _order_due(self, store: CertificateStore) -> None:
        """Make the orders that are due, one after the other."""
        for name in list(self._names):
            auto = self._auto()
            each = self._names.get(name)
            if auto is None or each is None or not self._may_order(each, auto):
                continue
            if not await store.lock():
                return
            try:
                # Another gateway may have renewed it meanwhile.
                found = (await store.load([name]))[name]
                if found != each.kept and found.bundle != each.kept.bundle:
                    self._requested.discard(name)
                await self._adopt(store, each, found)
                if self._may_order(each, auto):
                    await self._order(store, each, auto)
            finally:
                with contextlib.suppress(StoreUnavailable):  # then the lease expires
                    await store.unlock()

    def _auto(self) -> AutomaticTls | None:
        tls = self._config().tls
        return tls.auto if tls is not None else None

    def _may_order(self, each: OrderedName, auto: AutomaticTls) -> bool:
        now = self._wall()
        if now < self._hold_until or each.name in self._unwritten:
            return False
        return each.name in self._requested or each.is_due(now, auto.directory)

    async def _order(self, store: CertificateStore, each: OrderedName, auto: AutomaticTls) -> None:
        # Imported here: the packages are optional dependencies, and take 0.3 s.
        from passerelle.acme.order import order

        self._requested.discard(each.name)
        before = each.kept.attempt
        failures = before.failures + 1
        following = self._wall() + pause(failures, None, self._rng)
        failed = Attempt(before.directory, failures, following, "the order was interrupted")
        await store.keep_attempt(each.name, failed)
        binding = auto.external_account
        authority = Authority(
            auto.directory,
            auto.directory_ca,
            auto.contact,
            (binding.key_id, binding.hmac_key) if binding is not None else None,
        )
        account = await store.account(auto.directory)
        loop = asyncio.get_running_loop()

        def wait_for(work: Awaitable[None]) -> None:
            async def bounded() -> None:
                async with asyncio.timeout(PUBLISH_LIMIT):
                    await work

            try:
                asyncio.run_coroutine_threadsafe(bounded(), loop).result()
            except (StoreUnavailable, TimeoutError) as error:
                raise OrderFailed(str(error) or "the gateways did not respond to the challenge in time") from error

        def save(data: bytes) -> None:
            wait_for(store.keep_account(auto.directory, data))

        def publish(challenges: Sequence[Pending]) -> None:
            wait_for(self._publish(store, challenges))

        keeping = asyncio.create_task(_keep_lock(store))
        try:
            bundle = await in_thread(
                lambda: order(authority, account, save, each.name, auto.key_type, auto.challenge, publish)
            )
        except OrderFailed as error:
            await self._failed(store, each, failed, error)
        else:
            await self._issued(store, each, bundle, auto)
        finally:
            keeping.cancel()

    async def _publish(self, store: CertificateStore, challenges: Sequence[Pending]) -> None:
        """Have all workers of all gateways respond to ``challenges``."""
        silent = await self._send(challenges)
        if silent and challenges:
            raise StoreUnavailable(f"no response from {', '.join(silent)}, which cannot respond to the challenge")
        try:
            await store.publish(challenges)
        except StoreUnavailable:
            if challenges:
                raise
            # What was validated is valid; the challenges that the store still has expire.

    async def _failed(
        self,
        store: CertificateStore,
        each: OrderedName,
        attempt: Attempt,
        error: OrderFailed,
    ) -> None:
        following = self._wall() + pause(attempt.failures, error.retry_after, self._rng)
        if error.concerns != "name":
            self._hold_until, self._refused = following, error.concerns == "account"
        attempt = attempt._replace(next_at=following, error=str(error))
        each.adopt(Kept(each.kept.bundle, attempt))
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(following))
        found = each.certificate
        if found is None:
            served = "clients get a certificate signed by itself"
        else:
            end = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.end))
            served = f"the certificate in use {'expired' if found.end <= self._wall() else 'is valid until'} {end}"
        message = f"{each.name}: no certificate: {error}; {served}; next order at {until}"
        self._log(f"tls.auto: {message}")
        self._events.record(
            "certificate_failed", message, name=each.name, failures=attempt.failures, next_order=following
        )
        await store.keep_attempt(each.name, attempt)

    async def _issued(self, store: CertificateStore, each: OrderedName, bundle: bytes, auto: AutomaticTls) -> None:
        kept = Kept(bundle, Attempt(auto.directory))
        each.adopt(kept)
        found = each.certificate
        if found is not None:
            end, again = (time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(t)) for t in (found.end, each.renew_at))
            message = f"{each.name}: certificate of {found.issuer}, valid until {end}, to be renewed at {again}"
            self._log(f"tls.auto: {message}")
            self._events.record(
                "certificate_renewed", message, name=each.name, issuer=found.issuer, not_after=found.end
            )
        await self._write(each.name, kept)
        if store is not self._folder:
            await store.keep_certificate(each.name, bundle, kept.attempt)


async def _keep_lock(store: CertificateStore) -> None:
    """Renew the right to order, until cancelled."""
    while True:
        await asyncio.sleep(LOCK_INTERVAL)
        with contextlib.suppress(StoreUnavailable):
            await store.lock()
