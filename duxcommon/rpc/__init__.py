"""JSON-RPC 2.0 over Unix sockets: one declaration a method, a server for daemons and a client for callers."""

from .caller import Caller
from .client import Client
from .declare import MethodSpec, collect, method
from .server import Server

__all__ = ["Caller", "Client", "MethodSpec", "Server", "collect", "method"]
