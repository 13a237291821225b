"""Whether the chain of an invitation can be reached from here, found out before anything is changed."""

import base64
import contextlib
import http.client
import json
import secrets
import socket
import ssl

from duxcommon.errors import ChainUnreachable, InvitationRefused

from .invitation import ChainAccess, is_loopback

ASK_S = 10.0


def addresses_of(chain: ChainAccess) -> list[str]:
    """The IP addresses of the chain's host, this machine's own left out. Raises ChainUnreachable."""
    host, port = chain.host_port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ChainUnreachable(f"{host} is not known here: {error.strerror or error}") from error
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return [address for address in addresses if not is_loopback(address)]


def check_chain(chain: ChainAccess, genesis: str) -> None:
    """Log in and ask for block 0. Raises ChainUnreachable or InvitationRefused, saying at what it fails."""
    host, port = chain.host_port
    where = f"the trial chain at {host}, port {port}/tcp,"
    try:
        status, body = _ask(chain, host, port)
    except ssl.SSLCertVerificationError as error:
        raise InvitationRefused(
            f"{where} shows another certificate than the invitation's ({error.verify_message}): it is another machine, "
            "or it was set up anew"
        ) from error
    except ConnectionRefusedError as error:
        raise ChainUnreachable(
            f"{where} refuses connections: it is off, or no longer open to other machines"
        ) from error
    except TimeoutError as error:
        raise ChainUnreachable(
            f"{where} does not answer within {ASK_S:.0f} s: the machine is off, or a firewall drops what goes there"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise ChainUnreachable(f"{where} can't be reached: {getattr(error, 'strerror', None) or error}") from error
    if status in (401, 403):
        raise InvitationRefused(f"{where} no longer takes this invitation's login")
    try:
        reply = json.loads(body)
        answered = reply["result"]
    except (ValueError, KeyError, TypeError):
        raise ChainUnreachable(f"{where} answers with something else than a chain (HTTP {status})") from None
    if answered != genesis:
        raise InvitationRefused(f"{where} is another chain than the invitation's network")


def _ask(chain: ChainAccess, host: str, port: int) -> tuple[int, bytes]:
    connection: http.client.HTTPConnection
    if chain.url.startswith("https:"):
        context = ssl.create_default_context(cadata=chain.certificate)
        connection = http.client.HTTPSConnection(host, port, timeout=ASK_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=ASK_S)
    login = base64.b64encode(f"{chain.user}:{chain.password.get_secret_value()}".encode()).decode()
    body = json.dumps({"id": 1, "method": "getblockhash", "params": [0]})
    with contextlib.closing(connection):
        # A wallet of our own choice: none is made before it is used.
        path = f"/wallet/{secrets.token_hex(16)}"
        connection.request("POST", path, body, {"Authorization": f"Basic {login}"})
        response = connection.getresponse()
        return response.status, response.read(100_000)
