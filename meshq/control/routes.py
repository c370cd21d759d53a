"""Route policies: looked at, put, cleared (INTERFACE part 6). Every sidecar applies what is put here within 2 s."""

from typing import NamedTuple

from meshq.control.pictures import Pictures, asking
from meshq.core.errors import Code, refuse
from meshq.core.names import BadName, check_service
from meshq.core.policy import Policy
from meshq.core.policy_parsing import BadPolicy, doubts, parse_policy
from meshq.ports import Clock


class Stored(NamedTuple):
    policy: Policy
    doubts: list[str]
    """What the operator may not have meant: the policy names versions that never were."""


class Routes:
    """Every method may raise Refused and Unreachable."""

    def __init__(self, pictures: Pictures, clock: Clock) -> None:
        self._pictures = pictures
        self._clock = clock

    async def of(self, service: str) -> Policy | None:
        checked(service)
        return (await self._pictures.now()).policies.get(service)

    async def put(self, service: str, data: object) -> Stored:
        """`data` is a policy as JSON or YAML have it. All that is wrong with it is told at once."""
        checked(service)
        picture = await self._pictures.now()
        try:
            policy = parse_policy(service, data, now_ms=self._clock.mesh_ms(), before=picture.policies.get(service))
        except BadPolicy as bad:
            raise refuse(Code.BAD_REQUEST, f"the policy of {service}: {bad}") from bad
        with asking():
            await self._pictures.registry.put_policy(service, policy)
        known = picture.services.get(service)
        return Stored(policy, doubts(policy, known.majors if known is not None else ()))

    async def clear(self, service: str) -> bool:
        """False: there was none."""
        checked(service)
        was = (await self._pictures.now()).policies.get(service)
        with asking():
            await self._pictures.registry.put_policy(service, None)
        return was is not None


def checked(service: str) -> str:
    """A service's name. Raises Refused."""
    try:
        return check_service(service)
    except BadName as error:
        raise refuse(Code.BAD_ADDRESS, str(error)) from error
