"""Changes of a running fleet: reload, scale, restart, and changes of instances.

Changes run one at a time. Clients do not notice them: new instances are up before old ones leave, and an instance that
leaves first finishes its requests in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from passerelle.config.models.application import ONLY_WITH_APP
from passerelle.config.models.config import Config
from passerelle.config.models.config import Service as ServiceConfig
from passerelle.config.models.instances import MOST_INSTANCES
from passerelle.supervisor.active_config import Candidate
from passerelle.supervisor.control_channel import ControlError
from passerelle.supervisor.errors import ChangeRefused
from passerelle.supervisor.fleet import Fleet, Member
from passerelle.supervisor.instance_admin import InstanceAdmin
from passerelle.supervisor.instance_process import InstanceProcess, uses_socket
from passerelle.supervisor.packed_config import pack
from passerelle.supervisor.service_health import ServiceHealthMonitor
from passerelle.supervisor.state_lock import StateInUse
from passerelle.supervisor.target_set import TargetSet
from passerelle.supervisor.worker_process import WorkerProcess
from passerelle.system.ports import PortTaken

# The keys of a service that define its processes: when one changes, all its instances are replaced.
_PROCESS = ("app", "run", *ONLY_WITH_APP, "env", "cwd", "grace")
_START_POLL = 0.5  # seconds between checks of whether the start is complete
_REPLACED_AGAIN = 30.0  # seconds until a worn instance is replaced again when its successor has not come up


class Reconciler:
    """Makes changes to ``fleet`` and its ``targets``."""

    def __init__(self, fleet: Fleet, targets: TargetSet) -> None:
        self._fleet = fleet
        self._targets = targets
        self._instance_admin = InstanceAdmin(targets, fleet.report.log, fleet.clock)
        # Returns the services of a configuration that need no instances, because no user has that version any more.
        self.ended_versions: Callable[[Config], set[str]] = lambda config: set()
        fleet.on_worn = self._on_worn
        self.on_applied: Callable[[], None] = lambda: None  # called when another configuration is in force

    async def change(self, name: str, arguments: Mapping[str, str]) -> dict[str, Any]:
        """Make the change called ``name``, as the admin port names it. :raises ChangeRefused: if it cannot be made."""
        if name == "reload":
            return await self.reload()
        if name.startswith("instances/"):
            return await self._instance_admin.change(name.removeprefix("instances/"), arguments)
        service = arguments.get("service", "")
        if name == "restart":
            return await self.restart(service)
        number = arguments.get("instances", "")
        if number == "auto":
            return await self.scale_automatically(service)
        if not number.isdecimal() or not 1 <= int(number[:6]) <= MOST_INSTANCES:
            raise ChangeRefused(f"found {number!r} instances; allowed is a number from 1 to {MOST_INSTANCES}")
        return await self.scale(service, int(number))

    # Reload

    async def reload(self) -> dict[str, Any]:
        """Read the file and apply it.

        :raises ChangeRefused: with every problem of the file, in which case nothing changes; or if a new instance does
            not come up, in which case the new configuration is in force.
        """
        fleet = self._fleet
        async with fleet.exclusive():
            with fleet.notifier.reload(), fleet.active.reloading():
                before = fleet.config
                try:
                    response = await self._apply(fleet.active.read())
                except ChangeRefused as refused:
                    if fleet.config is before:
                        fleet.report_refused(refused)
                    text = f"{fleet.active.file} was refused: {refused.problems[0]}"
                    fleet.events.record("reload", text, outcome="refused", problems=refused.problems)
                    raise
                finally:
                    fleet.state_lock.release(fleet.config)
                fleet.events.record("reload", response["message"], outcome="applied")
                return response

    async def reload_and_report(self) -> None:
        """Reload the file; a refusal is only reported."""
        with contextlib.suppress(ChangeRefused):
            await self.reload()

    async def follow(self) -> None:
        """Reload the file whenever it changes, until cancelled."""
        await self._fleet.active.follow(self.reload_and_report)

    async def _apply(self, candidate: Candidate) -> dict[str, Any]:
        fleet = self._fleet
        old, new = fleet.config, candidate.config
        leaving: list[Member] = []
        try:
            fleet.state_lock.take(new)
        except StateInUse as error:
            raise ChangeRefused(str(error)) from error
        try:
            opened = fleet.listeners.bind(new)
        except PortTaken as error:
            raise ChangeRefused(f"listen: {error}") from error
        with opened:
            await fleet.catalog.prepare(new)
            added = await self._prepare(old, new, leaving)
            reloaded: list[WorkerProcess] = []
            packed = pack(new)
            try:
                for number, worker in enumerate(fleet.workers):
                    reloaded.append(worker)  # also one that fails: it may have applied all but a socket
                    await worker.reload(packed, opened.for_worker(number), fleet.splits.settings(new))
            except ControlError as error:
                await self._roll_back(old, new, added, reloaded)
                raise ChangeRefused(f"a gateway worker cannot apply the configuration: {error}") from error
            opened.adopt()
        response = fleet.active.apply(candidate)
        fleet.catalog.exclude(fleet.listeners.addresses)
        fleet.catalog.adopt(new)
        for name in old.services.keys() | new.services.keys():
            fleet.configure_scaling(name, new.services.get(name))
        self.on_applied()
        await fleet.splits.adopt(new)
        removed = [name for name in old.services if name not in new.services]
        leaving += [member for member in fleet.members if member.service.name in removed]
        await fleet.drain_and_remove(leaving)
        for name in removed:
            fleet.services.pop(name).close()
        for name, service in fleet.services.items():
            if name in old.services and _process_keys(old.services[name]) != _process_keys(service.config):
                await self._replace_all(service)
        fleet.report.log(response["message"])
        return response

    async def _prepare(self, old: Config, new: Config, leaving: list[Member]) -> list[Member]:
        """Add and start the new services, instances and targets of ``new``, and return those instances and targets.

        Instances and targets that ``new`` no longer has are appended to ``leaving``: they stay until the workers have
        applied ``new``.
        """
        fleet = self._fleet
        added: list[Member] = []
        ended = self.ended_versions(new)
        for name, config in new.services.items():
            before = old.services.get(name)
            if before is None:
                service = fleet.make_service(name, config)
            else:
                service = fleet.services[name]
                service.configure(config)
            instances = self._instances(service)
            wanted = config.instances.min if config.is_local else 0
            if before is not None and before.is_local and config.is_local and before.instances == config.instances:
                wanted = len(instances)  # the file has the same number as before: keep the one that was set by scale
            elif config.is_local and config.instances.scales:
                wanted = min(max(len(instances), config.instances.min), config.instances.max)
            if name in ended:
                wanted = 0
            elif config.is_local and not wanted:
                wanted = config.instances.min  # a version that had ended is in use again
            added += [fleet.make_instance(service) for _ in range(wanted - len(instances))]
            leaving += instances[wanted:]
            joining = self._targets.reconcile(service, new, leaving)
            fleet.targets += joining
            added += joining
        await fleet.start(added)
        return added

    async def _roll_back(self, old: Config, new: Config, added: list[Member], workers: Iterable[WorkerProcess]) -> None:
        """Undo :meth:`_prepare`, and apply the old configuration in ``workers`` again."""
        fleet = self._fleet
        fleet.catalog.adopt(old)
        for name in old.services.keys() & new.services.keys():
            fleet.services[name].configure(old.services[name])
            self._targets.reconcile(fleet.services[name], old, [])  # restores weights; none of the targets has left
        packed = pack(old)
        for number, worker in enumerate(workers):
            try:
                await worker.restore(packed, fleet.listeners.for_worker(number), fleet.splits.settings())
            except ControlError as error:
                fleet.report.log(f"{worker.name} cannot return to the previous configuration: {error}")
        await fleet.drain_and_remove(added)
        for name in new.services.keys() - old.services.keys():
            fleet.services.pop(name).close()

    # Instances

    async def scale(self, name: str, number: int) -> dict[str, Any]:
        """Change the number of instances of the service ``name``; a service with a range no longer follows the load.

        :raises ChangeRefused: if there is no such service, or its instances are not processes of the supervisor.
        """
        async with self._fleet.exclusive():
            response = await self._scale(self._local_service(name), number)
            scaling = self._fleet.scaling.get(name)
            if scaling is not None:
                scaling.set_manually(number)
                response["message"] += f"; it follows the load again after `passerelle scale {name}=auto`"
            return response

    async def scale_automatically(self, name: str) -> dict[str, Any]:
        """Let the number of instances of the service ``name`` follow the load again.

        :raises ChangeRefused: if its instances are not a range.
        """
        async with self._fleet.exclusive():
            self._local_service(name)
            scaling = self._fleet.scaling.get(name)
            if scaling is None:
                raise ChangeRefused(f"the instances of {name} are a fixed number: give them min and max in the file")
            scaling.resume()
            message = f"{name}: the number of instances follows the load"
            self._fleet.report.log(message)
            self._fleet.events.record("scale", message, service=name)
            return {"message": message}

    async def follow_load(self, name: str, before: int, number: int, reason: str, text: str) -> bool:
        """Change the number of instances from ``before`` to ``number``, for ``reason``.

        Returns False, and changes nothing, if the service or its number has changed meanwhile.

        :raises ChangeRefused: while the supervisor stops.
        """
        fleet = self._fleet
        async with fleet.exclusive():
            scaling, service = fleet.scaling.get(name), fleet.services.get(name)
            if scaling is None or service is None or scaling.manual or len(self._instances(service)) != before:
                return False
            if not scaling.instances.min <= number <= scaling.instances.max:
                return False
            await self._scale(service, number, reason, text)
            return True

    async def _scale(
        self, service: ServiceHealthMonitor, number: int, reason: str = "manual", text: str = ""
    ) -> dict[str, Any]:
        fleet, name = self._fleet, service.name
        instances = self._instances(service)
        before = len(instances)
        added: list[Member] = [fleet.make_instance(service) for _ in range(number - before)]
        await fleet.start(added)
        late = [member.name for member in added if not service.is_up(member.name)]
        await fleet.drain_and_remove(instances[number:])
        message = f"{name}: scaled from {before} to {number} instances"
        if late:
            message += f"; not up yet: {', '.join(late)}"
        reported = f"{message}: {text}" if text else message
        fleet.report.log(reported)
        fleet.events.record("scale", reported, service=name, before=before, instances=number, reason=reason)
        return {"message": message, "before": before, "instances": number}

    async def end_versions(self) -> None:
        """Stop the instances of old versions whose rollout is done."""
        fleet = self._fleet
        with contextlib.suppress(ChangeRefused):  # the supervisor stops
            async with fleet.exclusive():
                for name in sorted(self.ended_versions(fleet.config) & fleet.services.keys()):
                    instances = self._instances(fleet.services[name])
                    if instances:
                        await fleet.drain_and_remove(instances)
                        message = (
                            f"{name}: ended {len(instances)} instance{'s' * (len(instances) != 1)}: all users have"
                        )
                        fleet.report.log(f"{message} the new version")
                        fleet.events.record(
                            "scale", f"{message} the new version", service=name, instances=0, reason="rollout"
                        )

    async def restart(self, name: str) -> dict[str, Any]:
        """Replace the instances of the service ``name``, one at a time.

        :raises ChangeRefused: if there is no such service, its instances are not processes of the supervisor, or a new
            instance does not come up; in that case the old instances that are left keep running.
        """
        async with self._fleet.exclusive():
            service = self._local_service(name)
            number = await self._replace_all(service)
            message = f"{name}: replaced {number} instance{'s' * (number != 1)}"
            self._fleet.report.log(message)
            return {"message": message, "instances": number}

    async def _replace_all(self, service: ServiceHealthMonitor) -> int:
        old = self._instances(service)
        for number, instance in enumerate(old):
            if problem := await self._replace(instance):
                text = f"{service.name}: replaced {number} of {len(old)} instances; the others keep running, because"
                text += f" the new instance {problem}"
                self._fleet.report.log(text)
                raise ChangeRefused(text)
        return len(old)

    async def _replace(self, instance: InstanceProcess) -> str:
        """Replace ``instance`` once its successor is up. Returns what the successor lacks; empty after success."""
        fleet, service = self._fleet, instance.service
        new = fleet.make_instance(service, instance.place)
        await fleet.start([new])
        if not service.is_up(new.name):
            problem = service.problems.get(new.name) or new.last_end or "no response"
            await fleet.remove(new)
            return f"{new.name} did not come up: {problem}"
        await fleet.drain_and_remove([instance])
        return ""

    def _on_worn(self, instance: InstanceProcess) -> None:
        self._fleet.spawn(self._replace_worn(instance))

    async def _replace_worn(self, instance: InstanceProcess) -> None:
        """Replace an instance that has handled ``max_requests``, until that succeeds."""
        fleet, worn = self._fleet, instance.process
        with contextlib.suppress(ChangeRefused):  # the supervisor stops
            while True:
                if fleet.state == "starting":
                    await asyncio.sleep(_START_POLL)
                    continue
                async with fleet.exclusive():
                    if instance not in fleet.instances or instance.process is not worn or worn is None:
                        return  # it was replaced, or has ended and was started again
                    if worn.returncode is not None:
                        return  # it has ended, and will be started again
                    problem = await self._replace(instance)
                if not problem:
                    fleet.report.log(f"{instance.name} was replaced after max_requests")
                    return
                fleet.report.log(f"{instance.name} has handled max_requests, but its successor {problem}")
                await asyncio.sleep(_REPLACED_AGAIN)

    def _instances(self, service: ServiceHealthMonitor) -> list[InstanceProcess]:
        return [instance for instance in self._fleet.instances if instance.service is service]

    def _local_service(self, name: str) -> ServiceHealthMonitor:
        services = self._fleet.services
        service = services.get(name)
        if service is None:
            raise ChangeRefused(f"there is no service {name!r}; the services are: {', '.join(services)}")
        if not service.config.is_local:
            raise ChangeRefused(
                f"{name} has {service.config.source}: passerelle does not start its instances;"
                " see passerelle instances --help"
            )
        return service


def _process_keys(config: ServiceConfig) -> list[object]:
    of_host = config.host != "client" if config.app is not None else None  # see ServerOptions.keep_host
    return [*(getattr(config, key) for key in _PROCESS), uses_socket(config), of_host]
