"""Connections that look at whom they have reached: no link-local address, such as a cloud's metadata server.

The address is checked after the name was resolved and connected, so that a name which resolves differently the second
time does not help.
"""

import ipaddress
import ssl
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from tuning.errors import AccessDenied

# Amazon's metadata server on IPv6 is a unique local address, not a link-local one.
_METADATA = {ipaddress.ip_address("fd00:ec2::254")}


def refuse_address(address: str) -> None:
    """Raise AccessDenied for a link-local, multicast, unspecified or metadata address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in _METADATA:
        raise AccessDenied(
            f"the address {ip} is link-local and not asked for data", hint="set DATA_ALLOW_LINK_LOCAL=true to allow it"
        )


class _Connection(HTTPConnection):
    def _new_conn(self) -> Any:
        sock = super()._new_conn()
        _check(sock)
        return sock


class _SecureConnection(HTTPSConnection):
    def _new_conn(self) -> Any:
        sock = super()._new_conn()
        _check(sock)
        return sock


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def _check(sock: Any) -> None:
    try:
        refuse_address(sock.getpeername()[0])
    except AccessDenied:
        sock.close()
        raise


class PeerAdapter(HTTPAdapter):
    """Connects with one TLS context for all, and refuses link-local peers unless they are allowed."""

    def __init__(self, context: ssl.SSLContext | None, connections: int, *, allow_link_local: bool) -> None:
        self._context = context
        self._allow_link_local = allow_link_local
        super().__init__(pool_connections=connections, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Let every pool use the context and the connections of this module."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        if not self._allow_link_local:
            self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """The same context behind a proxy."""
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Without requests' own certificates: they would be loaded again for every connection."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {key: value for key, value in pool.items() if not key.startswith(("ca_cert", "cert_reqs"))}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context verifies."""
