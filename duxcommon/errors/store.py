"""Errors of the store: 5500–5999."""

from .base import DuxError


class AppUnknown(DuxError):
    code = 5500
    hint_default = "Look for it with `dux-ctl app search WORD`; a new listing takes a few seconds to arrive."
    component = "store"


class AppAmbiguous(DuxError):
    code = 5501
    hint_default = "Several publishers use this name: write name@publisher-prefix, or the app's id."
    component = "store"


class BadManifest(DuxError):
    code = 5502
    hint_default = "Mend the line of dux.yaml that is named; `dux-ctl app init NAME` shows a complete one."
    component = "store"


class BadBundle(DuxError):
    code = 5503
    hint_default = "Pack the app's folder again with `dux-ctl app publish DIR`; a bundle holds files and folders only."
    component = "store"


class BundleTooLarge(DuxError):
    code = 5504
    hint_default = "Leave out what the app doesn't need at run time."
    component = "store"


class BundleMissing(DuxError):
    code = 5505
    hint_default = "Upload the bundle first (`blob.write`), or publish the folder with `dux-ctl app publish DIR`."
    component = "store"


class ScanRefused(DuxError):
    code = 5506
    hint_default = "Mend the findings that are listed and publish again; nothing was announced."
    component = "store"


class NotPublisher(DuxError):
    code = 5507
    hint_default = "Only the node that published an app can withdraw it."
    component = "store"


class BadCursor(DuxError):
    code = 5508
    hint_default = "Pass the `next` of the page before, with the same filters, or start again without `after`."
    component = "store"


class StoreFull(DuxError):
    code = 5509
    hint_default = "Withdraw listings that you no longer sell."
    component = "store"


class WheelsMissing(DuxError):
    code = 5510
    hint_default = "Check the names, versions and hashes in requirements.lock, and that a package index can be reached."
    retry = True
    component = "store"


class SampleFailed(DuxError):
    code = 5511
    hint_default = "Read the app's log above; the sample must give the result in the bundle."
    component = "store"
