"""What the outbox's file says of the agent that wrote it: what waits, and what became of the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from vedette.clock import now_ns
from vedette.delivery import ENTRY_OVERHEAD, Entry, Key

from .account import Account
from .core import Item, Place
from .store import AccountRow, Bad, BrokenFileError, MessageRow, Store
from .tally import MAX_NUMBER, Count, Found

MAX_LOST: Final = 30  # accounts of messages that are lost, told again at each start: who was told of them, nobody knows
LATEST_NS: Final = 253_402_300_800 * 10**9  # the year 10000


@dataclass(frozen=True, slots=True)
class Recovered:
    """``accounts``: those with something to tell. ``bytes``: of what waits, by their ids. ``bad``: numbers of messages that
    are not as they were written. ``forgotten``: ids of accounts that are settled, or whose losses are long ago. ``boots``:
    ids of those that messages are of. ``highest``: number."""

    accounts: list[Account]
    bytes: dict[int, int]
    bad: list[int]
    forgotten: list[int]
    boots: set[int]
    count: int
    highest: int


def recovered(store: Store, tally: Found | None, boot: str) -> Recovered:
    """Looks at every message. ``boot``: this one. Raises `BrokenFileError`, `DiskError`.

    An account's ``lost`` is what its other numbers leave over: exact with a tally of this boot, an upper bound without.
    """
    waiting = {row.id: 0 for row in store.accounts}
    size = {row.id: 0 for row in store.accounts}
    bad: list[int] = []
    boots: set[int] = set()
    highest = 0
    for message in store.messages():
        highest = max(highest, message.number)
        if isinstance(message, Bad):
            bad.append(message.number)
        else:
            boots.add(message.boot)
            waiting[message.account] += 1
            size[message.account] += len(message.body) + ENTRY_OVERHEAD
    trusted = tally if tally is not None and (tally.epoch, tally.boot) == (store.state.kept, boot) else None
    accounts, lost, forgotten = [], [], []
    for row in store.accounts:
        counts = trusted.counts if trusted is not None and row.epoch == store.state.kept else {}
        account = _account(row, waiting[row.id], counts.get(row.id))
        if account.waiting:
            accounts.append(account)
        elif account.lost:
            lost.append(account)
        else:
            forgotten.append(row.id)
    # an agent that was killed before a ledger of its own was out has told nobody
    lost.sort(key=lambda account: (account.epoch, account.number))
    forgotten += [account.number for account in lost[:-MAX_LOST]]
    accounts += lost[-MAX_LOST:]
    return Recovered(accounts, size, bad, forgotten, boots, sum(waiting.values()), highest)


def _account(row: AccountRow, waiting: int, count: Count | None) -> Account:
    account = Account(row.epoch, row.stream)
    account.number = row.id
    account.ranges, account.ranges_cut = list(row.ranges), row.ranges_cut
    account.waiting = waiting
    account.last = account.written = account.lease = row.lease
    account.acknowledged, account.rejected, account.dropped = row.acknowledged, row.rejected, row.dropped
    if count is not None and not _settle(account, row, count):
        count = None
    account.lost = _left(account)
    if account.lost < 0 or min(row[3:9]) < 0 or max(row[3:9]) > MAX_NUMBER:
        raise BrokenFileError(f"the account of {'/'.join(row.stream)} in epoch {row.epoch} does not balance")
    if account.dropped > row.dropped:
        account.ranges_cut += 1  # ranges are in the transaction alone
    return account


def _settle(account: Account, row: AccountRow, count: Count) -> bool:
    """Takes the tally's numbers over, less those of messages that are still in the file, and will be sent once more."""
    stale = count.stale
    numbers = []
    for now, then in (
        (count.acknowledged, row.acknowledged), (count.dropped, row.dropped), (count.rejected, row.rejected),
    ):  # fmt: skip
        taken_back = min(stale, max(0, now - then))
        stale -= taken_back
        numbers.append(now - taken_back)
    old = (account.last, account.acknowledged, account.dropped, account.rejected)
    account.last, (account.acknowledged, account.dropped, account.rejected) = count.last, numbers
    if stale or count.last < row.last or _left(account) < 0:
        account.last, account.acknowledged, account.dropped, account.rejected = old
        return False
    account.lease = account.written = count.last
    return True


def _left(account: Account) -> int:
    settled = account.acknowledged + account.rejected + account.dropped
    return account.last - settled - account.waiting


def item_of(store: Store, row: MessageRow, account: Account, boot: str, synced: bool, opened_ns: int) -> Item:
    """A message of the file. ``boot``, ``synced``: this boot, and whether its wall clock is right. ``opened_ns``: when the
    outbox was opened, CLOCK_BOOTTIME."""
    then = store.boots[row.boot]
    born_ns, wall_ns = row.captured_ns, None
    if then.boot != boot:
        at = row.captured_ns + then.ahead_ns
        wall_ns = at if 0 <= at < LATEST_NS else None
        # how old it is, two clocks say if both can be trusted; else it is as old as this start at least
        trusted = then.synced and synced and wall_ns is not None
        born_ns = at - (time.time_ns() - now_ns()) if trusted else opened_ns
    key = Key(account.epoch, account.stream, row.seq)
    entry = Entry(key, row.captured_ns, then.boot, row.clock, row.body, wall_ns)
    return Item(entry, account, row.number, born_ns, opened_ns, Place.FILE, held=False)
