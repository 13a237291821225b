"""Publishing and withdrawing an app of this node: scan, sign, keep, announce."""

import asyncio
import logging

from duxcommon import failpoint
from duxcommon.api.common import SignedRecord
from duxcommon.api.manifest import Manifest
from duxcommon.api.registryd import ListingBody, PublishReply, ScanReport
from duxcommon.errors import BundleMissing, NotPublisher, ScanRefused, StaleRecord
from duxcommon.machine import this_machine

from .listings import KIND, Entry, Listings, app_id
from .ports import Blobs, Directory, Signer
from .scan import scan

log = logging.getLogger("registryd.store")


class Publisher:
    """What a seller does with listings, and what arrives from other sellers."""

    def __init__(self, listings: Listings, directory: Directory, signer: Signer, blobs: Blobs) -> None:
        self._listings = listings
        self._directory = directory
        self._signer = signer
        self._blobs = blobs

    async def start(self) -> None:
        """Take listings that arrive, and put the kept ones of others and this node's own back into the directory."""
        self._directory.on(KIND, self.arrived)
        for record in await asyncio.to_thread(self._listings.others):
            self._directory.keep(record)
        for record in await asyncio.to_thread(self._listings.own):
            await self._put(record)

    async def _put(self, record: SignedRecord) -> bool:
        """Announce the newest listing of the record's app: another call may have replaced it meanwhile."""
        newest = self._listings.get(record.body["app"])
        return await self._directory.announce(record if newest is None else newest.record)

    async def arrived(self, record: SignedRecord) -> bool:
        """Keep a listing of another node. Raises BadRecord, BadSignature, WrongNetwork, StaleRecord, StoreFull."""
        if await self._listings.accept(record) == "stale":
            raise StaleRecord(f"a newer listing than number {record.seq} is known")
        return True

    async def scan(self, bundle: str) -> tuple[ScanReport, Manifest]:
        """Check a bundle that is in the blob store. Raises BundleMissing, BadBundle, BundleTooLarge, BadManifest."""
        path = self._blobs.path(bundle)
        if not path.is_file():
            raise BundleMissing(f"there is no bundle {bundle[:16]}… on this node")
        return await asyncio.to_thread(scan, path, bundle, this_machine())

    async def publish(self, bundle: str, key: str) -> PublishReply:
        """Sign and announce a listing. Raises ScanRefused, Conflict, StoreFull, and what `scan` does."""
        report, manifest = await self.scan(bundle)
        errors = [finding for finding in report.findings if finding.severity == "error"]
        if errors:
            first = f"{errors[0].path + ' ' if errors[0].path else ''}{errors[0].message}"
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise ScanRefused(
                f"{manifest.name} is not published: {first}{more}",
                details={"findings": [finding.model_dump() for finding in report.findings]},
            )
        app = app_id(self._signer.node_id, manifest.name)
        body = ListingBody(
            app=app,
            manifest=manifest,
            bundle=bundle,
            bundle_size=report.size,
            arch=report.arch,
            python=report.python,
        )
        entry = await self._listings.publish(key, {"app": app, "bundle": bundle}, body)
        failpoint.hit("registryd:listing-signed")
        warnings = [f"{finding.path}: {finding.message}".removeprefix(": ") for finding in report.findings]
        return await self._announce(entry, warnings)

    async def withdraw(self, entry: Entry) -> PublishReply:
        """Take an app off the market; calls that were ordered are still served. Raises NotPublisher."""
        if entry.record.node != self._signer.node_id:
            raise NotPublisher(f"{entry.name} was published by node {entry.record.node[:16]}…, not by this one")
        key, params = f"withdraw:{entry.body.app}:{entry.record.seq}", {"app": entry.body.app, "withdrawn": True}
        body = entry.body.model_copy(update={"withdrawn": True})
        return await self._announce(await self._listings.publish(key, params, body), [])

    async def _announce(self, entry: Entry, findings: list[str]) -> PublishReply:
        announced = await self._put(entry.record)
        log.info(
            "app withdrawn" if entry.body.withdrawn else "app published",
            extra={"app": entry.body.app, "app_name": entry.name, "seq": entry.record.seq, "announced": announced},
        )
        return PublishReply(
            app=entry.body.app,
            name=entry.name,
            seq=entry.record.seq,
            bundle=entry.body.bundle,
            announced=announced,
            findings=findings,
        )
