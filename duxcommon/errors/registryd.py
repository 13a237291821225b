"""Errors of dux-registryd: 5000–5499."""

from .base import DuxError


class UnknownNode(DuxError):
    code = 5000
    hint_default = "See the nodes that are known with `dux-ctl node list`; a new one takes a few seconds to appear."
    component = "registryd"


class PeerUnreachable(DuxError):
    code = 5001
    hint_default = "The node is off or can't be reached from here; try again, or choose another one."
    retry = True
    component = "registryd"


class MethodNotForPeers(DuxError):
    code = 5002
    hint_default = "Only methods that are declared for peers can be called on another node."
    component = "registryd"


class QuotaExceeded(DuxError):
    code = 5003
    hint_default = "Wait a moment and ask for less at once."
    retry = True
    component = "registryd"


class PeerProtocol(DuxError):
    code = 5004
    hint_default = "The other node doesn't keep to the protocol; compare the versions of Dux OS on both."
    component = "registryd"


class BlobUnknown(DuxError):
    code = 5005
    hint_default = "The node doesn't hold this payload any more; ask for it to be sent again."
    component = "registryd"


class BlobTooLarge(DuxError):
    code = 5006
    hint_default = "A payload may have at most 64 MiB; split it."
    component = "registryd"


class NotOffered(DuxError):
    code = 5007
    hint_default = "The other node hands a payload only to the nodes it was made for, and only for a time."
    component = "registryd"


class UploadMismatch(DuxError):
    code = 5008
    hint_default = "Go on at the offset that is named, or begin again under a new upload name."
    component = "registryd"


class SigningRefused(DuxError):
    code = 5009
    hint_default = "Each kind of record is signed for the one daemon that it belongs to."
    component = "registryd"


class RecordTooLarge(DuxError):
    code = 5010
    hint_default = "Shorten the texts in it; a record of the directory may have at most 56 KB when packed."
    component = "registryd"


class EndpointDown(DuxError):
    code = 5011
    hint_default = "Look for what else uses the port (`ss -ulpn`), or set another one in registryd.yaml."
    retry = True
    component = "registryd"
