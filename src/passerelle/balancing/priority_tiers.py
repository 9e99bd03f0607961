"""Instances by priority: the first tier takes all requests as long as one of its instances is up, then the next tier.

RFC 2782 requires this for SRV records: a client must use the reachable targets with the lowest number. Unlike with the
priorities of zones (:mod:`.group`), nothing spills over before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from passerelle.balancing import instance as _instance
from passerelle.balancing.instance import Instance, Status
from passerelle.balancing.policies import PickerNode, Policy


class PriorityTiers:
    """A leaf made of policies, one for each tier (``instance.tier``, the lowest first). A pick costs that of a policy.

    ``size`` and ``up`` are those of the active tier: one tier carries all requests, so that a group above this node
    has no reason to send a part of them elsewhere.
    """

    __slots__ = ("_new_policy", "_policies", "parent")

    def __init__(self, make: Callable[[], Policy], members: Iterable[Instance] = ()) -> None:
        """``make`` returns an empty policy for one tier."""
        self.parent: PickerNode | None = None
        self._new_policy = make
        self._policies: dict[int, Policy] = {}  # by tier, in ascending order
        self.replace(members)

    acquire = staticmethod(_instance.acquire)
    release = staticmethod(_instance.release)

    def replace(self, members: Iterable[Instance]) -> None:
        """Replace the members; see :meth:`.policies.Policy.replace`."""
        tiers: dict[int, list[Instance]] = {}
        for instance in members:
            tiers.setdefault(instance.tier, []).append(instance)
        before = self._policies
        self._policies = {tier: before.get(tier) or self._create_policy() for tier in sorted(tiers)}
        for tier, policy in self._policies.items():
            policy.replace(tiers[tier])
        for tier in before.keys() - tiers.keys():
            before[tier].parent = None
            before[tier].replace(())
        self.changed()

    def _create_policy(self) -> Policy:
        policy = self._new_policy()
        policy.parent = self
        return policy

    def pick(self, exclude: tuple[Instance, ...] = (), key: bytes | None = None) -> Instance | None:
        """See :meth:`.policies.PickerNode.pick`. A tier whose instances are all excluded is skipped."""
        for policy in self._policies.values():
            chosen = policy.pick(exclude, key)
            if chosen is not None:
                return chosen
        return None

    def changed(self) -> None:
        """Notify the parent: an instance has changed."""
        if self.parent is not None:
            self.parent.changed()

    @property
    def status(self) -> Status:
        """See :class:`.policies.PickerNode`."""
        return max((policy.status for policy in self._policies.values()), default=Status.DOWN)

    @property
    def _active_tier(self) -> Policy | None:
        """The first tier with an instance up; the first tier without one."""
        policies = self._policies.values()
        return next((policy for policy in policies if policy.up), next(iter(policies), None))

    @property
    def size(self) -> int:
        """The number of instances in the active tier, without draining ones."""
        return self._active_tier.size if self._active_tier is not None else 0

    @property
    def up(self) -> int:
        """The number of instances in the active tier that are up."""
        return self._active_tier.up if self._active_tier is not None else 0

    @property
    def members(self) -> tuple[Instance, ...]:
        """All instances, in any status."""
        return tuple(instance for policy in self._policies.values() for instance in policy.members)
