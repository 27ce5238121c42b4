"""The same receiver, which leaves the signature to the reference library: ``pip install standardwebhooks``.

    python receiver_with_library.py serve --secret-file secret.txt

It needs ``receiver.py`` beside it, for all that is not the signature.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import receiver
from receiver import Refused
from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def verify(secrets: Sequence[str], headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Returns if the body was signed, with one of our secrets and not long ago.

    The library reads the clock itself and allows five minutes; ``now`` is not used.

    Raises:
        Refused: it was not.
    """
    why = "There is no secret."
    for secret in secrets:
        try:
            Webhook(secret).verify(body, dict(headers), json_parse=False)
        except WebhookVerificationError as error:
            why = f"{error}."
        except ValueError:
            # Version 1.1 lets a plain ValueError out for a header or a body that it cannot read. Not
            # caught, it would be a 500: the same to Forewarn, but an alarm in your logs for every scan.
            why = "The signature or the body cannot be read."
        else:
            return
    raise Refused(why)


if __name__ == "__main__":
    raise SystemExit(receiver.main(sys.argv[1:], verify))
