"""Machines on instances of your own AWS account: `--bigm.system=ec2`."""

from __future__ import annotations

import concurrent.futures
import getpass
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from bigmachine.agent.bare.delivery import Stage0Orders, user_data
from bigmachine.errors import BigmachineError, Cause, InvalidCall, ProvisionError
from bigmachine.system import Foreseen, HasMachineId, Keepalive, Launched, System, Ticket, agent_id_of, lines
from bigmachine.system.cost import Receipt, Use, receipt
from bigmachine.systems.ec2.api import Api
from bigmachine.systems.ec2.catalogue import Prices, ondemand_prices
from bigmachine.systems.ec2.depot import S3Depot
from bigmachine.systems.ec2.ending import Ending
from bigmachine.systems.ec2.failures import Refused
from bigmachine.systems.ec2.keys import public_keys
from bigmachine.systems.ec2.monitor import Monitor, describe
from bigmachine.systems.ec2.network import Group, my_network, open_group, remove_group
from bigmachine.systems.ec2.options import HostFile, Options, Unit, dollars, keys, labels, seconds, words, written
from bigmachine.systems.ec2.place import Place, Raiser, console, instance_of
from bigmachine.systems.ec2.plan import refusal
from bigmachine.systems.ec2.request import Bought, Wanted, climb
from bigmachine.systems.ec2.survey import Survey, survey
from bigmachine.systems.ec2.tags import SESSION, Origin
from bigmachine.systems.ec2.userdata import UNIT, cache_of, document
from bigmachine.trust import Role

if TYPE_CHECKING:
    from bigmachine.systems.ec2.plan import Plan

T = TypeVar("T")

_log = logging.getLogger("bigmachine")
#: So many instances are brought up at a time.
_AT_ONCE: Final = 64
#: Seconds for what has to be known before anything is bought; for the prices, without which it can be bought, too.
_SURVEY: Final = 60.0
_PRICES: Final = 10.0
#: An instance whose agent is gone may still be said to run for so long.
_NEWS: Final = 8.0
_LOOK: Final = 1.0
#: A host that nobody calls stays so much longer than its lease: with the time that it takes to boot, no more than a
#: minute. And what is bought may take so long to boot.
_SLACK: Final = 20.0
_BOOTING: Final = 600.0
#: So often the costs are added up, if there is a budget.
_COUNT: Final = 5.0


class EC2System(System):
    """Provides machines on instances, one on each; every instance ends with its machine, and with the driver.

    `type`: types of instance, the favourite first (a text with commas, or several). Spot instances are asked for
    first, on-demand ones where these are not to be had; `ondemand`: only on-demand ones; `spotonly`: only spot ones
    (wins over `ondemand`). `ami`: the image (default: the newest of `flavor`: "debian", "ubuntu", "amazon", "flatcar").
    `region` and `session` (a boto3 Session): default by the environment, as boto3 has it. `profile`: the instances'
    instance profile. `groups`, `subnets`, `zones`: security groups, subnets, or zones with their default subnets.
    `open`: make a security group that lets this in, "me" or a network such as "203.0.113.7/32". `root`: GiB of the root
    disk, and 50 more. `data`: GiB of a data space at /mnt/data. `sshkeys`: public keys that may log in (default:
    `~/.ssh/*.pub` and those of the SSH agent). `keyname`: a key pair. `user`: who logs in. `files`, `units`, `tags`:
    more of them. `life`: hours after which an instance ends in any case. `maxprice`: dollars an hour that an instance
    may cost. `budget`: dollars that all of them may cost together; then they end. `bucket`: a bucket of S3 in the
    region (or "bucket/prefix"), from which hosts fetch what they lack and others have had before. `port`: where agents
    listen.

    Raises:
        ProvisionError: an option cannot be, or boto3 is not installed.
    """

    name = "ec2"
    is_bare = True
    is_paid = True

    def __init__(
        self,
        *,
        type: str | Sequence[str] = "m3.medium",  # noqa: A002 (the option's name)
        ondemand: bool = False,
        spotonly: bool = False,
        ami: str = "",
        flavor: str = "debian",
        region: str = "",
        session: Any = None,
        profile: str = "",
        groups: str | Sequence[str] = (),
        subnets: str | Sequence[str] = (),
        zones: str | Sequence[str] = (),
        open: str = "",  # noqa: A002 (the option's name)
        root: int = 200,
        data: int = 0,
        sshkeys: str | Sequence[str] | None = None,
        keyname: str = "",
        user: str = "",
        files: Sequence[HostFile | Mapping[str, Any]] = (),
        units: Sequence[Unit | Mapping[str, Any]] = (),
        tags: Mapping[str, str] | None = None,
        life: float = 24.0,
        maxprice: str | float | None = None,
        budget: str | float | None = None,
        bucket: str = "",
        port: int = 443,
        keepalive: Keepalive | None = None,
    ) -> None:
        self.options = Options(
            types=words(type),
            ondemand=ondemand,
            spotonly=spotonly,
            ami=ami,
            flavor=flavor,
            region=region,
            instance_profile=profile,
            groups=words(groups),
            open_to=open,
            subnets=words(subnets),
            zones=words(zones),
            root_gib=root,
            data_gib=data,
            ssh_keys=keys(sshkeys),
            key_name=keyname,
            user=user,
            files=written(HostFile, files, "files"),
            units=written(Unit, units, "units"),
            tags=labels(tags),
            life=seconds(life),
            max_price=dollars(maxprice, "ec2maxprice"),
            budget=dollars(budget, "ec2budget"),
            bucket=bucket,
            port=port,
        )
        self.keepalive = keepalive or Keepalive()
        self._session = session
        self._api: Api | None = None
        self._monitor: Monitor | None = None
        self._survey: concurrent.futures.Future[Survey] | None = None
        self._prices: concurrent.futures.Future[Mapping[str, float]] | None = None
        self._lock = threading.RLock()  # reentrant: a signal's handler may interrupt a launch and shut down
        self._places: dict[str, Place] = {}
        self._ending: Ending | None = None
        self._group: Group | None = None
        self._depot: S3Depot | None = None
        self._ticket: Ticket | None = None
        self._is_unclear = False
        self._is_shut_down = False
        self._is_spent = False

    # before anything is bought

    def prepare(self) -> None:
        """Begin to find out types, image, prices."""
        with self._lock:
            if self._api is not None:
                return
            self._api = Api(self._session, self.options.region)
            self._monitor = Monitor(self._api)
            self._ending = Ending(self._api)
            self._depot = S3Depot(self._api, self.options.bucket) if self.options.bucket else None
            self._survey = _in_thread(lambda: survey(self._connected(), self.options), "survey")
            if self.options.may_demand:  # the price list is another service, and slow
                self._prices = _in_thread(lambda: ondemand_prices(self._connected(), self.options.types), "prices")
        if self.options.budget is not None:
            threading.Thread(target=self._watch_budget, name="bigmachine-ec2-budget", daemon=True).start()

    def _connected(self) -> Api:
        if self._is_shut_down or self._api is None:
            raise ProvisionError("this ec2 system was shut down; make a new one")
        return self._api

    def _surveyed(self) -> Survey:
        self.prepare()
        assert self._survey is not None
        try:
            return self._survey.result(_SURVEY)
        except TimeoutError as error:
            raise ProvisionError(
                f"ec2: the API did not tell within {_SURVEY:.0f} s what there is", temporary=True
            ) from error
        except ProvisionError as error:
            if error.temporary and not self._is_shut_down:
                with self._lock:  # the next launch asks again
                    self._survey = _in_thread(lambda: survey(self._connected(), self.options), "survey")
            raise

    def _ondemand(self, timeout: float) -> Mapping[str, float]:
        """Give the on-demand prices that are known by then."""
        try:
            return {} if self._prices is None else self._prices.result(timeout)
        except (TimeoutError, BigmachineError, Refused):
            return {}

    def depot(self) -> S3Depot | None:
        return self._depot

    def plan(self, n: int) -> Plan:
        """Say what `n` machines would be: types, places, prices an hour, in the order in which they are asked for.

        Raises:
            ProvisionError: if they cannot be had.
        """
        return self._surveyed().plan(n, self.options, self._ondemand(_PRICES))

    def foresee(self) -> Sequence[Foreseen]:
        return (self._surveyed().foreseen(),)

    # start

    def launch(self, n: int, ticket: Ticket) -> Sequence[Launched]:
        if n < 1:
            raise ProvisionError(f"{n} machines were asked for: it has to be at least one")
        if self._is_spent:
            raise self._spent()
        found = self._surveyed()
        plan = found.plan(n, self.options, self._ondemand(_PRICES if self.options.has_limit else 0.0))
        self._ticket = ticket
        origin = self._origin(ticket)
        began = time.time()
        wanted, raiser = self._order(found, ticket, origin)
        raising: list[tuple[Place, concurrent.futures.Future[None]]] = []
        with concurrent.futures.ThreadPoolExecutor(min(n, _AT_ONCE), "bigmachine-ec2-raise") as pool:

            def take(bought: Bought) -> None:
                place = Place(bought, [("requesting", began)])
                self._places[bought.id] = place
                raising.append((place, pool.submit(raiser.raise_, place, found.vcpus(bought.type))))

            def marks(request: str) -> Mapping[str, str]:
                return origin.tags(request, self.options.tags)

            ticket.tell(self.name, f"requesting {n} of {', '.join(self.options.types)}")
            try:
                tried = climb(self._connected(), n, wanted, plan.rungs, marks, take)
                ticket.tell(self.name, "")
                self._is_unclear |= any(each.is_unclear for each in tried)
                if not raising:
                    raise refusal(n, tried, plan.dropped)
                ready = self._settle(raising)
                with self._lock:
                    self._connected()  # a shutdown meanwhile has seen the instances, or is seen here
                    if self._is_spent:  # and so with the end of the budget
                        raise self._spent()
                    for place in ready:
                        place.is_given = True
            except BaseException as error:
                ticket.tell(self.name, "")
                # An answer may have been lost: what was bought then is found by its tags.
                self._is_unclear = True
                self._end([place for place, _ in raising])
                if self._is_spent and isinstance(error, ProvisionError):
                    raise self._spent() from error
                raise
        return [place.launched(self.options.port, found.vcpus(place.bought.type)) for place in ready]

    def _spent(self) -> ProvisionError:
        return ProvisionError(f"ec2: the budget of ${self.options.budget:g} is used up; start a new session")

    def _settle(self, raising: Sequence[tuple[Place, concurrent.futures.Future[None]]]) -> list[Place]:
        """Wait until each instance is up or has failed; those that failed are ended.

        Raises:
            BigmachineError: the first failure, if all failed.
        """
        ready: list[Place] = []
        failures: list[BigmachineError] = []
        for place, future in raising:
            try:
                future.result()
            except BigmachineError as error:
                failures.append(error)
                self._end([place])
            else:
                ready.append(place)
        if not ready:
            raise failures[0]
        for failure in failures:
            _log.warning("%s", "\n".join([str(failure), *getattr(failure, "__notes__", ())]))
        return ready

    def _order(self, found: Survey, ticket: Ticket, origin: Origin) -> tuple[Wanted, Raiser]:
        """Write what all instances of one request have."""
        api = self._connected()
        options = self.options
        assert self._monitor is not None
        bootstrap_id = f"b{secrets.token_hex(4)}"
        # When a driver dies just after the purchase, nobody ever calls: that must not take longer than a lease would.
        patience = min(self.keepalive.first_contact, self.keepalive.lease + _SLACK)
        orders = Stage0Orders(
            ticket.issue(Role.BOOTSTRAP, bootstrap_id),
            listen=("0.0.0.0", options.port),  # noqa: S104 (whoever has no certificate is refused)
            cache=(cache_of(options),),
            first_contact=patience,
            tethered=False,
        )
        may_log_in = public_keys() if options.ssh_keys is None else options.ssh_keys
        text = document(options, user_data(orders), may_log_in)
        if options.open_to and self._group is None:
            name = f"bigmachine-{ticket.session}"
            network = my_network(options.open_to)
            self._group = open_group(api, name, network, options.port, found.vpc, origin.tags(name, options.tags))
        groups = (*options.groups, *((self._group.id,) if self._group is not None else ()))
        raiser = Raiser(api, self._monitor, ticket, self.keepalive, bootstrap_id, options.port, patience, self.depot())
        return Wanted(options, found.ami, text, groups), raiser

    def _origin(self, ticket: Ticket) -> Origin:
        program = os.path.basename(sys.argv[0]) or "python"
        expiry = time.time() + self.options.life + _BOOTING
        return Origin(ticket.session, socket.gethostname(), _user(), program, expiry, ticket.digest)

    # while they run

    def fate(self, place: Launched, is_sure: bool) -> tuple[Cause, str] | None:
        """Say what has become of an instance whose agent does not answer, or (`is_sure`) is known to be gone."""
        monitor = self._monitor
        end = time.monotonic() + (_NEWS if is_sure else 0.0)
        while monitor is not None and not self._is_shut_down:
            facts = monitor.facts(instance_of(place.agent_id))
            if self._is_spent:
                return Cause.CANCELLED, f"the budget of ${self.options.budget:g} is used up"
            if facts is not None and facts.is_gone:
                return facts.fate
            if time.monotonic() + _LOOK > end:
                return None
            time.sleep(_LOOK)  # the API hears of it later than we do
        return None

    def cost(self) -> Receipt:
        """Say what the instances cost: an hour, and altogether so far."""
        known = self._survey
        spot = known.result().spot if known is not None and known.done() and not known.exception() else {}
        prices = Prices(spot, self._ondemand(0.0))
        uses = []
        for place in list(self._places.values()):
            bought, zone = place.bought, place.bought.zone or (place.facts.zone if place.facts is not None else "")
            price = prices.of(bought.market, bought.type, zone) or bought.price
            uses.append(
                Use(place.id, bought.type, zone, bought.market, price, place.began, place.ended, place.agent_id)
            )
        return receipt(uses, time.time())

    def _watch_budget(self) -> None:
        api, budget = self._api, self.options.budget
        assert api is not None
        assert budget is not None
        while not api.closing.wait(_COUNT):
            if self.cost().total >= budget:
                with self._lock:
                    self._is_spent = True
                _log.error("ec2: the budget of $%g is used up: all instances end\n%s", budget, self.cost())
                self._end(list(self._places.values()))
                return

    def console(self, machine: HasMachineId) -> list[str]:
        """Fetch the console of a machine's instance: what its system says, as lines; also of one that has ended.

        Raises:
            ProvisionError: if it cannot be had.
        """
        try:
            return console(self._connected(), instance_of(agent_id_of(machine)))
        except Refused as refused:
            raise refused.told() from refused

    def read(self, machine: HasMachineId, path: str) -> BinaryIO:
        return self._ticket_of(machine).read(agent_id_of(machine), path)

    def tail(self, machine: HasMachineId) -> Iterator[str]:
        """Give what the host's journal has of stage 0 and the agent, from the first line on, and what comes."""
        return lines(self._ticket_of(machine).follow(agent_id_of(machine), UNIT))

    def _ticket_of(self, machine: HasMachineId) -> Ticket:
        place = self._places.get(instance_of(agent_id_of(machine)))
        if place is None or self._ticket is None or place.ended is not None:
            raise InvalidCall(f"the machine {machine.machine_id!r} is on no instance that this ec2 system has now")
        return self._ticket

    # the end

    def release(self, place: Launched) -> None:
        """Terminate the instance of a machine that has ended; does not wait."""
        known = self._places.get(instance_of(place.agent_id))
        if known is not None:
            self._end([known])

    def _end(self, places: Sequence[Place]) -> None:
        running = [place for place in places if place.ended is None]
        for place in running:
            place.ended = time.time()
        if self._ending is not None:
            self._ending.add(place.id for place in running)

    def shutdown(self, timeout: float) -> None:
        api, ending = self._api, self._ending
        with self._lock:
            was_shut_down, self._is_shut_down = self._is_shut_down, True
        if was_shut_down or api is None or ending is None:
            return
        end = time.monotonic() + timeout
        api.closing.set()  # a launch in another thread
        self._end(list(self._places.values()))
        if not ending.flush(timeout):
            _log.warning("ec2: not all instances were terminated within %.0f s: their lease ends them", timeout)
        if self._is_unclear and self._ticket is not None:
            self._sweep(api, ending, self._ticket.session, max(1.0, end - time.monotonic()))
        if self._group is not None:
            remove_group(api, self._group)
        if self._places:
            _log.info("ec2: the receipt\n%s", self.cost())
        ending.close()
        if self._monitor is not None:
            self._monitor.close()
        api.close()

    def _sweep(self, api: Api, ending: Ending, session: str, timeout: float) -> None:
        """Terminate what bears our tags and is not known to us: an answer was lost."""
        states = ("pending", "running", "stopping", "stopped")
        filters = {f"tag:{SESSION}": (session,), "instance-state-name": states}
        try:
            found = describe(api, filters, is_last=True, timeout=timeout)
        except (Refused, BigmachineError) as error:
            _log.warning("ec2: whether all instances have ended could not be found out: %s", error)
            return
        ending.add(each.id for each in found)
        ending.flush(timeout)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _in_thread(work: Callable[[], T], name: str) -> concurrent.futures.Future[T]:
    """Begin to do something in a thread that keeps no program from ending."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 (it is raised where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=run, name=f"bigmachine-ec2-{name}", daemon=True).start()
    return future


__all__ = ["EC2System"]
