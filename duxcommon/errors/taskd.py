"""Errors of dux-taskd: 4000–4499."""

from .base import DuxError


class TaskdError(DuxError):
    component = "taskd"


class NoProvider(TaskdError):
    code = 4000
    hint_default = "The message counts what each provider lacked. Try again later, or name one with --provider."
    retry = True


class TooExpensive(TaskdError):
    code = 4001
    hint_default = "Raise --max-price to at least the cheapest price named, or search for another app."


class PriceChanged(TaskdError):
    code = 4002
    hint_default = "Look at the app again (`dux-ctl app show`); nothing was ordered at the new price."


class InputMissing(TaskdError):
    code = 4003
    hint_default = "Give the input file; a large one must be uploaded before the task is started."


class InputTooLarge(TaskdError):
    code = 4004
    hint_default = "Send a smaller file; `dux-ctl app show` names the app's limit."


class WrongMedia(TaskdError):
    code = 4005
    hint_default = "Send a file of a kind that the app takes; its content counts, not its name."


class WrongParams(TaskdError):
    code = 4006
    hint_default = "`dux-ctl app show` lists the app's parameters and what they may be."


class TaskUnknown(TaskdError):
    code = 4007
    hint_default = "List your tasks with `dux-ctl task list`."


class TaskOver(TaskdError):
    code = 4008
    hint_default = "Its result has arrived already; see `dux-ctl task status`."


class DeadlinePassed(TaskdError):
    code = 4009
    hint_default = "Nothing was paid for it. Start the task again with a later --deadline-s."


class Cancelled(TaskdError):
    code = 4010
    hint_default = "The task was cancelled; nothing was paid for it."


class QueueFull(TaskdError):
    code = 4011
    hint_default = "Wait until some of the tasks in the queue are done."
    retry = True


class ProviderGarbage(TaskdError):
    code = 4020
    hint_default = "The provider answered with something that is no valid reply; it was not paid. Try another."
    retry = True


class ReceiptMismatch(TaskdError):
    code = 4021
    hint_default = "The provider's receipt does not fit the order or the result; it was not paid. Try another."
    retry = True


class ProviderSilent(TaskdError):
    code = 4022
    hint_default = "The provider did not answer in time; it was not paid. Try another, or check your connection."
    retry = True


class ProviderBusy(TaskdError):
    code = 4023
    hint_default = "Try again in a while or let another provider do it."
    retry = True


class ProviderPaused(TaskdError):
    code = 4024
    hint_default = "The owner of that machine is not lending it now; let another provider do it."
    retry = True


class AppNotServed(TaskdError):
    code = 4025
    hint_default = "That node does not offer this app; `dux-ctl app providers` lists those that do."


class TaskTooLarge(TaskdError):
    code = 4026
    hint_default = "The app needs more than that machine's owner lends; let another provider do it."


class ProviderRestarted(TaskdError):
    code = 4027
    hint_default = "The provider's machine restarted while it worked; it was not paid. Run the task again."
    retry = True


class OrderRefused(TaskdError):
    code = 4028
    hint_default = "The order does not name this node, or does not fit what came with it; nothing was run or charged."


class OutputInvalid(TaskdError):
    code = 4029
    hint_default = "The result is not what the app's manifest promises; it was not paid. Tell the publisher."
