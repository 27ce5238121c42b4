"""What the demo says to the service over HTTP, with every answer that is not a success told in words."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from app.demo.processes import DemoFailed

PATIENCE_SECONDS = 60
"""How long a service that asks to come back later is waited for."""


class Client:
    """One partner's view of the service: a key and what may be asked with it.

    Every method raises ``DemoFailed`` when the service cannot be reached or refuses.
    """

    def __init__(self, url: str, key: str) -> None:
        """Speaks to the service at ``url`` with that key."""
        self._http = httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30
        )

    def __enter__(self) -> Self:
        """Closes its connections afterwards."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes its connections."""
        self._http.close()

    def post_signals(self, bodies: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Posts a batch and gives the receipt, which may refuse single signals (207, 422)."""
        answer = self._ask("POST", "/v1/signals", json=list(bodies))
        receipt = _object(answer)
        if answer.status_code not in {200, 202, 207, 422} or "rejected" not in receipt:
            raise _refused(answer)
        return receipt

    def subscribe(self, endpoint: str, description: str) -> dict[str, Any]:
        """Subscribes the endpoint to everything; the answer has the secret."""
        body = {"url": endpoint, "format": "json", "filter": {}, "description": description}
        return self._get_object(self._ask("POST", "/v1/subscriptions", json=body))

    def subscription(self, subscription_id: str) -> dict[str, Any]:
        """One subscription as it stands."""
        return self._get_object(self._ask("GET", f"/v1/subscriptions/{subscription_id}"))

    def deliveries(self, subscription_id: str) -> list[dict[str, Any]]:
        """Everything owed to a subscription so far, whatever became of it."""
        return list(self._all(f"/v1/subscriptions/{subscription_id}/deliveries"))

    def alerts(self) -> list[dict[str, Any]]:
        """All alerts, open and resolved."""
        return list(self._all("/v1/alerts"))

    def alert(self, ref: str) -> dict[str, Any]:
        """One alert as it stands."""
        return self._get_object(self._ask("GET", f"/v1/alerts/{ref}"))

    def timeline(self, ref: str) -> list[dict[str, Any]]:
        """The transitions of one alert."""
        return list(self._all(f"/v1/alerts/{ref}/timeline"))

    def _all(self, path: str) -> Iterator[dict[str, Any]]:
        after: str | None = None
        while True:
            page = {"limit": "200"} if after is None else {"limit": "200", "after": after}
            answer = self._get_object(self._ask("GET", path, params=page))
            yield from answer["items"]
            after = answer.get("next")
            if after is None:
                return

    def _get_object(self, answer: httpx.Response) -> dict[str, Any]:
        if not answer.is_success:
            raise _refused(answer)
        return _object(answer)

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Asks, and asks again while the service says that it is busy (429, 503)."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError as error:
                told = (
                    f"The service did not answer {method} {path} ({type(error).__name__}: {error})."
                )
                raise DemoFailed(told) from error
            if answer.status_code not in {429, 503} or time.monotonic() > until:
                return answer
            time.sleep(_pause(answer))


def _pause(answer: httpx.Response) -> float:
    hint = answer.headers.get("retry-after", "1")
    return min(float(hint), 10.0) if hint.isdigit() else 1.0


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {}


def _refused(answer: httpx.Response) -> DemoFailed:
    problem = _object(answer)
    said = problem.get("detail") or problem.get("title") or answer.text[:200]
    faults = "; ".join(f"{e.get('pointer')}: {e.get('detail')}" for e in problem.get("errors", []))
    told = f"{answer.request.method} {answer.request.url.path} was answered {answer.status_code}: {said}"
    if answer.is_server_error:
        told += f" With --data-dir the service's log is kept; look there for {problem.get('request_id')}."
    return DemoFailed(f"{told} ({faults})" if faults else told)
