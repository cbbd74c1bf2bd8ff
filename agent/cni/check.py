"""CHECK of one attachment: what it should look like compared with kernel, datastore and the host's routes.

Promises: nothing is changed; every difference is named at once, and the host's routes have time to be repaired.
Does not know: what is compared (agent/cni/differences.py does), netlink, etcd.
"""

from __future__ import annotations

from agent.cni.attachment import host_interface
from agent.cni.dependencies import Dependencies, translated_errors
from agent.cni.differences import differences
from agent.cni.endpoint_store import EndpointStore
from agent.cni.plugin.options import CniError, Code
from agent.cni.plugin.spec import Request
from agent.netlink.kernel_errors import KernelError

ROUTE_SECONDS = 3.0
"""How long CHECK waits for the host's routes: the reconciler may be repairing them."""


async def check(dependencies: Dependencies, store: EndpointStore, request: Request) -> None:
    """Compare with what ADD made. Raises CniError with every difference."""
    with translated_errors():
        stored, held = await store.stored(request), await store.held(request)
        state = await dependencies.pods.state(request.netns, request.interface, host_interface(request))
    if stored is not None and stored.spec.container_id != request.container_id:
        stored = None
    wrong = list(differences(request, stored, held, state))
    if stored is not None:
        try:
            await dependencies.wait_for_routes(stored.addresses, ROUTE_SECONDS)
        except (KernelError, TimeoutError) as error:
            wrong.append(f"the host's route: {error}")
    if wrong:
        raise CniError(Code.DIFFERS, f"{request.interface} is not as it was made: {'; '.join(wrong)}")
